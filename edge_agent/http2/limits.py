"""What all callers at one socket may take together, and how long they may take."""

from dataclasses import dataclass, field

from linewatch.edge_agent.http2.rate_limit import Allowance


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one peer may take.

    Attributes:
        streams: calls at a time; the next one is refused, and gRPC's clients wait or try again.
        header_bytes: of one call's headers; packed, it is a quarter more at most.
        frame_bytes: of a DATA frame; other frames may have gRPC's usual 16 KiB.
        window: bytes of a message that may come before its length is known.
    """

    streams: int = 32
    header_bytes: int = 12 * 1024
    frame_bytes: int = 1024 * 1024
    window: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the callers at one socket may take together, and how long they may take.

    Attributes:
        connection: of each.
        connections: at a time; of more, the one that is missed least makes room.
        threads: of calls that wait, besides two for each connection.
        held_bytes: of messages that come, are handled or go.
        handshake_s: seconds in which a connection has come about.
        idle_s: seconds after which a connection without calls is asked to leave.
        stall_s: seconds that a message may take to come whole, or to be read; large ones have longer.
        allowance: of work that leads to nothing, for each connection.
        together: the same, for all connections of a user together.
    """

    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    connections: int = 128
    threads: int = 64
    held_bytes: int = 256 * 1024 * 1024
    handshake_s: float = 10
    idle_s: float = 900
    stall_s: float = 30
    allowance: Allowance = field(default_factory=lambda: Allowance(30_000, 20_000))
    together: Allowance = field(default_factory=lambda: Allowance(200_000, 50_000))
