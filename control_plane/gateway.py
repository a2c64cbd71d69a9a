"""The server's HTTP endpoint: every request comes in here and goes through the same steps.

    find the operation -> find the credential -> verify the signature, where the headers tell what is signed -> read the body,
    bounded -> verify the signature over it -> check the parameters by the service model -> authorise -> run -> serialise by
    the model -> audit

Whatever goes wrong on the way becomes an answer in the caller's protocol; a fault of ours says no more than its request id.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from linewatch.control_plane.access.audit import AuditLog, loggable
from linewatch.control_plane.access.origin import check_origin
from linewatch.control_plane.access.sigv4 import query_pairs
from linewatch.control_plane.authentication import Caller, identify, sha256, verify_signature, verify_signature_early
from linewatch.control_plane.body_budget import BodyBudget
from linewatch.control_plane.dispatch import invoke
from linewatch.control_plane.errors import ApiError, InternalError, ThrottlingError, UnknownOperationError
from linewatch.control_plane.limits import CALL_BYTES, MIB, PICTURE_BYTES, UPDATE_BYTES
from linewatch.control_plane.metrics import HostingCollector
from linewatch.control_plane.request_context import ClientGoneError, Message, Receive, RequestContext, Send, in_thread
from linewatch.control_plane.s3_api.handler import S3Handler
from linewatch.control_plane.services import Call, Services
from linewatch.control_plane.wire.answers import Headers, render, render_error
from linewatch.control_plane.wire.requests import Source, parse_json, parse_rest
from linewatch.control_plane.wire.service_model import API_PREFIX, Operation, operations, route

log = logging.getLogger(__name__)

TARGET = "RekognitionService."
INTERNAL_PREFIX = "/-/"
"""Below it are health and metrics; no bucket can be called so."""

CALLS = Counter("linewatch_calls", "Calls by operation and error code", ("operation", "code"))
SECONDS = Histogram("linewatch_call_seconds", "Time of calls", ("operation",),
                    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10))  # fmt: skip


class Gateway:
    """The ASGI application."""

    def __init__(self, services: Services, audit: AuditLog) -> None:
        self._services, self._audit = services, audit
        threads = services.settings.threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="call")
        # Pictures wait for their model: they must not keep other calls from their turn.
        self._pictures = ThreadPoolExecutor(threads, thread_name_prefix="picture")
        self._budget = BodyBudget(services.settings.body_mib * MIB, PICTURE_BYTES)
        self._calls, self._most_calls = 0, 2 * threads + services.settings.calls_waiting
        self._hosting = CollectorRegistry()
        self._hosting.register(HostingCollector(services.store, services.hosting))
        self._s3 = S3Handler(services, self._pool, self._budget)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] != "http":
            return
        context = RequestContext.of(scope, receive, send, self._services.settings.body_s)
        try:
            await self._answer(context)
        except ClientGoneError:
            context.facts["errorCode"] = "ClientGone"
        finally:
            context.release()
            self._finish(context)

    async def _answer(self, context: RequestContext) -> None:
        if "x-amz-target" in context.headers:
            service = "rekognition"
        elif context.path.startswith((INTERNAL_PREFIX, API_PREFIX)) or not self._s3.handles(context):
            service = "lookoutvision"
        else:
            service = "s3"
        try:
            if self._services.settings.anonymous:
                check_origin(context.scheme, context.headers)
            if context.path.startswith(INTERNAL_PREFIX):
                return await self._answer_internal(context)
            self._require_room()
        except ApiError as error:
            refuse = self._s3.refuse if service == "s3" else partial(self._refuse, service)
            return await refuse(context, error)
        if service == "s3":
            return await self._s3.answer(context)
        return await self._api(context, service)

    async def _answer_internal(self, context: RequestContext) -> None:
        name = context.path.removeprefix(INTERNAL_PREFIX)
        if name in ("health", "metrics"):  # a metric for each path that somebody thinks of would have no end
            context.facts["eventName"] = context.path
        match name:
            case "health":
                await context.answer(200, [("content-type", "application/json")], b'{"status":"ok"}')
            case "metrics":
                hosting = await in_thread(self._pool, generate_latest, self._hosting)
                await context.answer(200, [("content-type", CONTENT_TYPE_LATEST)], generate_latest() + hosting)
            case _:
                raise UnknownOperationError(f"there is nothing at {context.path[:500]}")

    async def _api(self, context: RequestContext, service: str) -> None:
        context.facts["eventSource"] = f"{service}.amazonaws.com"
        try:
            operation, labels = _find(context, service)
            context.facts |= {"eventName": operation.name, "readOnly": operation.is_read}
            caller: Caller = await self._run_in_pool(self._pool, identify, self._services, context.raw)
            context.facts |= {"accessKey": caller.identity.access_key, "account": caller.scope.account,
                               "region": caller.scope.region}  # fmt: skip
            verified = verify_signature_early(caller, context.raw)
            body = await context.body(_body_limit(operation), self._budget, verified)
            pool = self._pictures if operation.name == "DetectAnomalies" else self._pool
            answer = await self._run_in_pool(pool, self._call, context, operation, labels, caller, body)
        except ApiError as error:
            await self._refuse(service, context, error)
        except ClientGoneError:
            raise
        # A fault of ours: the log has the trace, the client an id to ask with.
        except Exception:
            log.exception("request %s failed", context.request_id)
            await self._refuse(service, context, InternalError(context.fault_message))
        else:
            await context.answer(*answer)

    def _require_room(self) -> None:
        if self._calls >= self._most_calls:
            raise ThrottlingError(f"{self._calls} calls are being answered or wait; send fewer at a time")

    async def _run_in_pool(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        """Wait for a thread, and run what blocks there. Calls whose bodies are still coming wait for none, and count for none."""
        self._require_room()
        self._calls += 1
        try:
            return await in_thread(pool, function, *arguments)
        finally:
            self._calls -= 1

    def _call(
        self, context: RequestContext, operation: Operation, labels: dict[str, str], caller: Caller, body: bytes
    ) -> tuple[int, Headers, bytes]:
        verify_signature(caller, context.raw, sha256(body))
        context.mark_verified()
        if operation.service == "rekognition":
            params = parse_json(operation, body)
        else:
            params = parse_rest(operation, Source(labels, query_pairs(context.query), context.headers, body))
        context.facts["requestParameters"] = loggable(params)
        call = Call(self._services, caller.scope, caller.identity)
        return render(operation, invoke(call, operation, params))

    async def _refuse(self, service: str, context: RequestContext, error: ApiError) -> None:
        context.facts |= {"errorCode": error.code, "errorMessage": str(error)[:500]}
        status, headers, body = render_error(service, error)
        await context.drain()
        await context.answer(status, headers, body)

    def _finish(self, context: RequestContext) -> None:
        seconds = time.perf_counter() - context.began
        name = context.facts.get("eventName", "unknown")
        CALLS.labels(name, context.facts.get("errorCode", "")).inc()
        SECONDS.labels(name).observe(seconds)
        if not context.path.startswith(INTERNAL_PREFIX):
            self._audit.write(
                eventTime=datetime.now(UTC).isoformat(), requestId=context.request_id, sourceIPAddress=context.peer,
                userAgent=context.headers.get("user-agent", "")[:500], status=context.status,
                milliseconds=round(1000 * seconds, 2), **context.facts,
            )  # fmt: skip

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self._pictures.shutdown()


def _find(context: RequestContext, service: str) -> tuple[Operation, dict[str, str]]:
    if service == "rekognition":
        target = context.headers["x-amz-target"]
        operation = operations(service).get(target.removeprefix(TARGET)) if target.startswith(TARGET) else None
        if operation is None:
            known = ", ".join(operations(service))
            raise UnknownOperationError(f"the target {target[:200]!r} is not known; of Rekognition there are {known}")
        return operation, {}
    found = route(context.method, context.path)
    if found is None:
        raise UnknownOperationError(f"no operation has the method {context.method} and the path {context.path[:500]}")
    return found


def _body_limit(operation: Operation) -> int:
    match operation.name:
        case "DetectAnomalies":
            return PICTURE_BYTES
        case "UpdateDatasetEntries":
            return UPDATE_BYTES
        case _:
            return CALL_BYTES
