import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.edge_agent.workers.mask import CompactMask, overlap, paint, whiten
from linewatch.edge_agent.workers.shared_memory import Segment

WHITE = b"\xff" * 6


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    yield descriptor
    os.close(descriptor)


def compact(index: list[int]) -> CompactMask:
    return CompactMask([WHITE, b"abcdef", b"ghijkl"], index)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.booleans())
def test_painting_equals_the_whole_mask(index: list[int], whitened: bool) -> None:
    descriptor = os.memfd_create("test")
    try:
        size = 6 * len(index)
        os.pwrite(descriptor, b"." * (size + 10), 0)
        target = Segment(descriptor, 5, size, 0)
        if whitened:
            whiten(target, len(index), 6)
        paint(target, compact(index), whitened=whitened)
        written = os.pread(descriptor, size + 10, 0)
    finally:
        os.close(descriptor)
    # Nothing before or behind the mask's own part is touched.
    assert written == b"....." + compact(index).to_bytes() + b"....."


def test_more_rows_than_one_gather(memory: int) -> None:
    index = [i % 3 for i in range(4096)]
    paint(Segment(memory, 0, 6 * 4096, 4096), compact(index), whitened=False)
    assert os.pread(memory, 6 * 4096, 0) == compact(index).to_bytes()


@given(st.integers(0, 30), st.integers(1, 20), st.integers(0, 30), st.integers(1, 20))
def test_overlap_is_by_bytes_of_the_same_file(a: int, length: int, b: int, other: int) -> None:
    first, second = os.memfd_create("a"), os.memfd_create("b")
    again = os.dup(first)
    try:
        shared = bool(set(range(a, a + length)) & set(range(b, b + other)))
        assert overlap(Segment(first, a, length, 0), Segment(again, b, other, 0)) == shared
        assert not overlap(Segment(first, a, length, 0), Segment(second, b, other, 0))
    finally:
        for descriptor in (first, second, again):
            os.close(descriptor)
