"""Streams of a connection that are over, as far back as their peer may still send frames for them. Pure."""

from collections import OrderedDict

from linewatch.edge_agent.http2.frames import ErrorCode, expect

_REMEMBERED = 256


class ClosedStreams:
    """Those that were closed last; of earlier ones it is only known that they came before."""

    def __init__(self) -> None:
        self._crossing: OrderedDict[int, bool] = OrderedDict()
        self._forgotten = 0

    def add(self, number: int, *, crossing: bool) -> None:
        """This one is over.

        Args:
            number: of the stream.
            crossing: whether the peer may not know that yet, so that its frames may cross what ended the stream.
        """
        self._crossing[number] = crossing
        if len(self._crossing) > _REMEMBERED:
            self._forgotten = max(self._forgotten, self._crossing.popitem(last=False)[0])

    def expect_crossing(self, number: int) -> None:
        """A frame came for a stream that is over.

        Raises:
            ConnectionFaultError: the peer has never opened it, or knows that it is closed.
        """
        if number <= self._forgotten:
            return
        crossing = self._crossing.get(number)
        expect(crossing is not None, ErrorCode.PROTOCOL_ERROR, "a frame of a stream that was skipped")
        expect(crossing is True, ErrorCode.STREAM_CLOSED, "a frame of a stream that is closed")
