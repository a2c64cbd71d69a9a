"""Which messages come or go too slowly: they would hold memory, or a place, for ever. Pure; its time is told."""

from collections.abc import Callable, Iterable

from linewatch.edge_agent.http2.streams import Stream

SHORT_S = 1.0
"""That a message may take, and seconds that its speed is looked at over."""
_SLOW, _FAST = 16 * 1024, 256 * 1024
"""Bytes a second that a message comes or goes by to have more time; the other where memory is short."""


class Progress:
    """Of the streams of one connection. Not thread-safe."""

    def __init__(self) -> None:
        self._moving: dict[Stream, tuple[float, int]] = {}

    def begin(self, stream: Stream, now: float, moved: int) -> None:
        """A message comes, or goes, from now on, when `moved` bytes of the stream had; one that is looked after already goes on."""
        self._moving.setdefault(stream, (now, moved))

    def end(self, stream: Stream) -> None:
        """Nothing is to come or to go."""
        self._moving.pop(stream, None)

    def late(self, now: float, patience_s: float, *, memory_is_short: bool, is_over: Callable[[Stream], bool]) -> Iterable[Stream]:
        """Streams whose messages have taken too long.

        Args:
            now: on the monotonic clock.
            patience_s: seconds that a message may take without being fast.
            memory_is_short: whether less time is given, and more speed asked for.
            is_over: whether a stream's message has come, and nothing of it is to go.
        """
        patience_s, rate = (SHORT_S, _FAST) if memory_is_short else (patience_s, _SLOW)
        found = []
        for stream, (since, moved) in list(self._moving.items()):
            if stream.closed or is_over(stream):
                del self._moving[stream]
            elif now - since > SHORT_S and stream.moved - moved > rate * (now - since):
                self._moving[stream] = now, stream.moved
            elif now - since > patience_s:
                found.append(stream)
        return found
