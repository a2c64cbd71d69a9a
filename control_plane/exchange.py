"""One HTTP request and its answer, over ASGI: what every door works with."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from anomaly_model.numbers import read_digits
from control_plane.access.sigv4 import Received
from control_plane.errors import BodyTooLargeError, ThrottlingError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_DRAINED = 64 << 20
_LONGEST = 1 << 62
_SILENCE_S = 60
"""A client that sends nothing of its body for so long is gone."""


class ClientGoneError(Exception):
    """The client closed the connection; nobody waits for an answer."""


@dataclass(slots=True)
class Exchange:
    """A request that is being answered.

    Attributes:
        method: GET, POST ...
        path: raw, with its escapes.
        query: raw.
        headers: by lower-case name; several of one name joined by commas.
        peer: address of the client.
        request_id: of this call, in the answer and in the logs.
        status: of the answer, once it has begun; 0 before.
        read: bytes of the body that came.
        ended: the body has been read to its end.
        facts: what the audit log will tell.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    peer: str
    receive: Receive
    send: Send
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    read: int = 0
    ended: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Message, receive: Receive, send: Send) -> "Exchange":
        """From ASGI's scope."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        path = scope.get("raw_path") or scope["path"].encode()
        return cls(
            scope["method"], path.decode("latin-1"), scope["query_string"].decode("latin-1"), headers,
            (scope.get("client") or ("", 0))[0], receive, send,
        )  # fmt: skip

    @property
    def received(self) -> Received:
        """What is signed."""
        return Received(self.method, self.path, self.query, self.headers)

    @property
    def length(self) -> int | None:
        """Content-Length; None when the body comes in chunks or is absent."""
        text = self.headers.get("content-length")
        return None if text is None else read_digits(text, _LONGEST)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            ClientGoneError
        """
        while not self.ended:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    message = await self.receive()
            except TimeoutError:
                raise ClientGoneError from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            self.ended = not message.get("more_body", False)
            self.read += len(message.get("body", b""))
            if message.get("body"):
                yield message["body"]

    async def drain(self) -> None:
        """Read what is left of the body, within bounds: many clients do not look at an answer before they have sent it all."""
        if "expect" in self.headers and not self.read:
            return  # the client has not begun to send
        limit = self.read + _DRAINED
        async for _ in self.chunks():
            if self.read > limit:
                return

    async def body(self, limit: int, budget: "BodyBudget") -> bytes:
        """The whole body.

        Raises:
            BodyTooLargeError: over the limit; no more than that is taken into memory.
            ThrottlingError: other bodies fill the memory that is set aside for them.
        """
        if (self.length or 0) > limit:
            raise BodyTooLargeError(f"the body has {self.length} bytes; this call takes at most {limit}")
        size = self.length if self.length is not None else (limit if "transfer-encoding" in self.headers else 0)
        with budget.take(size):
            parts, total = [], 0
            async for part in self.chunks():
                total += len(part)
                if total > limit:
                    raise BodyTooLargeError(f"the body has over {limit} bytes, the most that this call takes")
                parts.append(part)
            return b"".join(parts)

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send status and headers."""
        self.status = status
        fields = [*headers, ("x-amzn-requestid", self.request_id), ("x-amz-request-id", self.request_id)]
        if not self.ended and (self.length or "transfer-encoding" in self.headers):
            fields.append(("connection", "close"))  # what is left of the body must not be taken for the next request
        await self.send({
            "type": "http.response.start", "status": status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in fields],
        })  # fmt: skip

    async def answer(self, status: int, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        """Send a whole answer."""
        empty = status in (204, 304)
        await self.begin(status, headers if empty else [*headers, ("content-length", str(len(body)))])
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" or empty else body})


class BodyBudget:
    """Memory that bodies which are being read may take, all together."""

    def __init__(self, size: int) -> None:
        self._free = size

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Set memory aside while a body is read.

        Raises:
            ThrottlingError: there is not enough.
        """
        if size > self._free:
            raise ThrottlingError("too many large bodies are being read; send fewer calls at a time")
        self._free -= size
        try:
            yield
        finally:
            self._free += size


async def in_thread(executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run what blocks in a thread."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
