"""One HTTP request and its answer, over ASGI: what every API of the server works with."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.access.sigv4 import RawRequest
from linewatch.control_plane.body_budget import BodyBudget, Reservation
from linewatch.control_plane.connections import address_group
from linewatch.control_plane.errors import BodyTooLargeError, SlowBodyError
from linewatch.control_plane.limits import BODY_BYTES_PER_S, CONTENT_LENGTH, DRAINED_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_DRAIN_S = 5.0


class ClientGoneError(Exception):
    """The client closed the connection; nobody waits for an answer."""


@dataclass(slots=True)
class RequestContext:
    """A request that is being answered.

    Attributes:
        method: GET, POST ...
        path: raw, with its escapes.
        query: raw.
        headers: by lower-case name; several of one name joined by commas.
        scheme: http or https.
        peer: address of the client.
        patience_s: that a body may keep us waiting, beside the time that it takes at `BODY_BYTES_PER_S`.
        request_id: of this call, in the answer and in the logs.
        status: of the answer, once it has begun; 0 before.
        read: bytes of the body that came.
        ended: the body has been read to its end.
        waited: seconds that were spent waiting for the body.
        facts: what the audit log will tell.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    scheme: str
    peer: str
    patience_s: float
    receive: Receive
    send: Send
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    read: int = 0
    ended: bool = False
    waited: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    _reservation: Reservation | None = None

    @classmethod
    def of(cls, scope: Message, receive: Receive, send: Send, patience_s: float) -> "RequestContext":
        """From ASGI's scope.

        Args:
            scope: of ASGI, of type http.
            receive: gives parts of the body.
            send: takes parts of the answer.
            patience_s: seconds that the body may keep us waiting, beside the time that it takes at `BODY_BYTES_PER_S`.
        """
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        path = scope.get("raw_path") or scope["path"].encode()
        return cls(
            scope["method"], path.decode("latin-1"), scope["query_string"].decode("latin-1"), headers,
            scope.get("scheme", "http"), (scope.get("client") or ("", 0))[0], patience_s, receive, send,
        )  # fmt: skip

    @property
    def raw(self) -> RawRequest:
        """As it was received, for checking its signature."""
        return RawRequest(self.method, self.path, self.query, self.headers)

    @property
    def fault_message(self) -> str:
        """What the client is told of a fault of ours: the id by which the log has it."""
        return f"internal error; the server's log has request {self.request_id}"

    @property
    def length(self) -> int | None:
        """Content-Length; None when the body comes in chunks or is absent."""
        text = self.headers.get("content-length")
        return None if text is None else read_digits(text, CONTENT_LENGTH)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            ClientGoneError: the client closed its connection.
            SlowBodyError: the body stood still for longer than it may.
        """
        while not self.ended:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self.patience_s + self.read / BODY_BYTES_PER_S - self.waited):
                    message = await self.receive()
            except TimeoutError:
                raise SlowBodyError(
                    f"after {self.read} bytes the body did not go on; it may stand still for {self.patience_s:g} s in all, beside "
                    f"the time that it takes at {BODY_BYTES_PER_S >> 10} KiB a second"
                ) from None
            finally:
                self.waited += time.perf_counter() - began
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
        limit = self.read + DRAINED_BYTES
        with suppress(TimeoutError, SlowBodyError):
            async with asyncio.timeout(_DRAIN_S):
                async for _ in self.chunks():
                    if self.read > limit:
                        return

    async def body(self, limit: int, budget: BodyBudget, verified: bool = False) -> bytes:
        """The whole body. Its memory is held until `release`.

        Args:
            limit: bytes of it.
            budget: where its memory comes from.
            verified: the signature was checked.

        Raises:
            BodyTooLargeError: over the limit; no more than that is taken into memory.
            SlowBodyError: it does not come.
            ThrottlingError: other bodies fill the memory that is set aside for them.
        """
        if (self.length or 0) > limit:
            raise BodyTooLargeError(f"the body has {self.length} bytes; this call takes at most {limit}")
        self._reservation = budget.reserve(address_group(self.peer), self.facts.get("accessKey", ""), verified)
        parts = []
        async for part in self.chunks():
            if self.read > limit:
                raise BodyTooLargeError(f"the body has over {limit} bytes, the most that this call takes")
            self._reservation.take(len(part))
            parts.append(part)
        return b"".join(parts)

    def mark_verified(self) -> None:
        """The signature over the body that was read is right.

        Raises:
            ThrottlingError: this caller's bodies fill the memory that is set aside for them.
        """
        if self._reservation is not None:
            self._reservation.mark_verified()

    def release(self) -> None:
        """The call is over, and its body is no longer needed."""
        if self._reservation is not None:
            self._reservation.release()

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


async def in_thread(executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run what blocks in a thread."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
