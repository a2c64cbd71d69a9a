"""What frames cost, however they are cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http2_frames import DATA, HEADERS, PING, frame, hello
from edge_agent.pace import Allowance, Pace

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 300)), max_size=30)


@given(FRAMES, st.lists(st.integers(1, 200), min_size=1))
def test_pieces_do_not_matter(frames: list[tuple[int, int]], cuts: list[int]) -> None:
    data = hello() + b"".join(frame(kind, 0, 1, bytes(length)) for kind, length in frames)
    pace, at, seconds = Pace(Allowance(1, 0), 0.0), 0, 0.0
    for cut in cuts * len(data):
        seconds = pace.passed(memoryview(data)[at : at + cut], 0.0)
        at += cut
        if at >= len(data):
            break
    assert seconds == 16 + sum(16 + (0 if kind == DATA else length * (4 + length // 64)) for kind, length in frames)


def test_pictures_never_wait_and_floods_do() -> None:
    picture = frame(HEADERS, 4, 1, bytes(100)) + frame(DATA, 0, 1, bytes(16_384)) * 170
    pace = Pace(Allowance(), 0.0)
    pace.passed(memoryview(hello()), 0.0)
    assert all(pace.passed(memoryview(picture), i / 200) == 0 for i in range(1000))
    pings, waited = frame(PING, 0, 0, bytes(8)) * 7000, 0.0
    for _ in range(20):
        waited += pace.passed(memoryview(pings), 5 + waited)
    assert waited > 5
