"""One call's state on its connection. Pure."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from linewatch.edge_agent.http2.messages import MessageReader

Buffer = bytes | bytearray | memoryview


class StreamEvent(Enum):
    """What became of a stream."""

    OPENED = auto()
    ENDED = auto()
    RESET = auto()


@dataclass(slots=True, eq=False)
class Stream:
    """One call.

    Attributes:
        number: odd, counted by the peer.
        headers: of the request, pseudo-headers included.
        reader: of its messages.
        send_window: bytes that the peer takes now.
        receive_window: bytes that the peer may send now.
        body_left: bytes of DATA that are to come, where the peer said how many; None where it did not.
        begun: whether a handler has had it.
        ended: whether the client has sent all it will.
        closed: whether nothing more is to be sent: answered, or reset by either side.
        answered: whether the response's headers were written.
        trailing: header fields to send behind the status.
        busy: whether a handler works on it: until `forget` it counts, and keeps its memory.
        outgoing: what waits for the peer's windows.
        ending: the header block that follows when all that is sent; None as long as more may come.
        cost: of the frames that came for it.
        answered_bytes: of messages to be sent, all together.
        moved: bytes of messages that came and went.
    """

    number: int
    headers: dict[str, str]
    reader: MessageReader
    send_window: int
    receive_window: int
    body_left: int | None = None
    begun: bool = False
    ended: bool = False
    closed: bool = False
    answered: bool = False
    trailing: bytes = b""
    busy: bool = False
    outgoing: deque[memoryview] = field(default_factory=deque)
    ending: bytes | None = None
    cost: float = 0.0
    answered_bytes: int = 0
    moved: int = 0


Event = tuple[StreamEvent, Stream]
