"""Streams that are over, and frames that come for them all the same."""

import pytest

from linewatch.edge_agent.http2.closed_streams import ClosedStreams
from linewatch.edge_agent.http2.frames import ConnectionFaultError, ErrorCode


def test_frames_that_crossed_the_end_are_no_fault_and_later_ones_are() -> None:
    closed = ClosedStreams()
    closed.add(1, crossing=True)
    closed.add(5, crossing=False)
    closed.expect_crossing(1)
    with pytest.raises(ConnectionFaultError, match="closed") as raised:
        closed.expect_crossing(5)
    assert raised.value.code is ErrorCode.STREAM_CLOSED
    with pytest.raises(ConnectionFaultError, match="skipped") as raised:
        closed.expect_crossing(3)
    assert raised.value.code is ErrorCode.PROTOCOL_ERROR


def test_of_streams_long_over_nobody_is_blamed() -> None:
    closed = ClosedStreams()
    for number in range(1, 1001, 2):
        closed.add(number, crossing=False)
    closed.expect_crossing(1)
    with pytest.raises(ConnectionFaultError):
        closed.expect_crossing(999)
