"""What all callers at one socket may take together, and how long they may take."""

from dataclasses import dataclass, field

from linewatch.edge_agent.http2.connection import ConnectionLimits
from linewatch.edge_agent.http2.pace import Allowance


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
