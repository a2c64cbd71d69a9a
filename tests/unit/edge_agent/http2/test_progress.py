"""Messages that come or go too slowly."""

import pytest

from linewatch.edge_agent.http2.budget import Budget
from linewatch.edge_agent.http2.messages import Expected, MessageReader
from linewatch.edge_agent.http2.progress import Progress
from linewatch.edge_agent.http2.streams import Stream

KIB = 1024


def stream(number: int = 1) -> Stream:
    return Stream(number, {}, MessageReader(Expected(10**6), Budget(10**6).account()), 0, 0)


def late(progress: Progress, now: float, *, short: bool = False, over: bool = False) -> list[Stream]:
    return [*progress.late(now, 30, memory_is_short=short, is_over=lambda _: over)]


@pytest.mark.parametrize(("per_second", "short", "ends_at"), [
    (0, False, 30), (15 * KIB, False, 30), (17 * KIB, False, None), (200 * KIB, True, 1), (300 * KIB, True, None),
])  # fmt: skip
def test_a_message_has_as_long_as_it_is_fast(per_second: int, short: bool, ends_at: int | None) -> None:
    one, progress = stream(), Progress()
    progress.begin(one, 0, 0)
    ended = None
    for second in range(1, 120):
        one.moved += per_second
        if late(progress, second + 0.001, short=short) and ended is None:
            ended = second
    assert ended == ends_at


def test_what_is_over_or_ended_is_not_late() -> None:
    closed, over, ended = stream(1), stream(3), stream(5)
    progress = Progress()
    for one in (closed, over, ended):
        progress.begin(one, 0, 0)
    progress.end(ended)
    closed.closed = True
    assert late(progress, 100) == [over]
    assert late(progress, 100, over=True) == []
    assert late(progress, 1000) == [], "nothing is looked after any more"


def test_beginning_again_gives_no_more_time() -> None:
    one, progress = stream(), Progress()
    progress.begin(one, 0, 0)
    progress.begin(one, 29, 0)
    assert late(progress, 31) == [one]
