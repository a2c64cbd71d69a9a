"""What calls are for, as connections see it."""

from typing import Protocol

from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.messages import Expected
from linewatch.edge_agent.http2.transport import Peer


class Application(Protocol):
    """Has methods by path, and handles calls of them."""

    def expected(self, path: str, peer: Peer) -> Expected | None:
        """What the method of this path takes; None when there is none.

        Raises:
            StatusError: this peer may not call it.
        """
        ...

    def handle(self, call: Call) -> bool:
        """Handle a call; returns whether it is ended, or whoever has it now will end it (False).

        Raises:
            StatusError: how it ends instead.
        """
        ...
