"""Log lines are short and not too many; what is echoed is short."""

import doctest
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import linewatch.edge_agent.quoting
from linewatch.edge_agent.log_lines import AS_ASKED, RateFilter, shorten
from linewatch.edge_agent.quoting import quoted, truncated


def test_examples() -> None:
    assert doctest.testmod(linewatch.edge_agent.quoting).failed == 0


@given(st.text() | st.binary(), st.integers(30, 300))
def test_what_is_echoed_is_short(value: str | bytes, most: int) -> None:
    assert len(quoted(value * 50, most)) <= 10 * most + 40
    assert len(truncated(str(value) * 50, most)) <= most
    assert truncated(str(value)[:most], most) == str(value)[:most]


def test_no_value_of_a_line_is_long() -> None:
    line = shorten(None, "info", {"event": "call failed", "reason": "x" * 2_000_000, "names": ["y" * 10_000] * 10_000, "path": object(), "n": 3,
                                "exception": "z" * 100_000})  # fmt: skip
    assert len(json.dumps(line)) < 40_000
    assert line["n"] == 3


def test_lines_of_a_kind_are_limited_and_counted() -> None:
    now = [0.0]
    rate = RateFilter(3, lambda: now[0])

    def kept(event: str) -> bool:
        try:
            rate(None, "info", {"event": event})
        except structlog.DropEvent:
            return False
        return True

    assert [kept("call failed") for _ in range(10)] == [True] * 3 + [False] * 7
    assert kept("agent stopping"), "other kinds are not held back"
    now[0] = 1.5
    assert rate(None, "info", {"event": "call failed"}) == {"event": "call failed", "left_out": 7}
    assert rate(None, "info", {"event": "call failed"}) == {"event": "call failed"}


@pytest.mark.parametrize("event", sorted(AS_ASKED))
def test_lines_that_were_asked_for_are_all_there(event: str) -> None:
    rate = RateFilter(1, lambda: 0.0)
    assert all(rate(None, "info", {"event": event}) for _ in range(100))
