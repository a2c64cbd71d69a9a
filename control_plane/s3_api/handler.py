"""S3's protocol over the directory of buckets: path-style calls, each an action of a table."""

import errno
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.access import sigv2
from linewatch.control_plane.access.sigv4 import declared_hash, parse_signature, query_pairs
from linewatch.control_plane.authentication import Caller, identify, identify_url, sha256, verify_signature
from linewatch.control_plane.body_budget import BodyBudget
from linewatch.control_plane.errors import AccessDeniedError, ApiError
from linewatch.control_plane.limits import DOCUMENT_BYTES
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.request_context import ClientGoneError, RequestContext, in_thread
from linewatch.control_plane.s3_api import buckets, object_actions, upload_actions
from linewatch.control_plane.s3_api.conditions import refuse_unsupported_headers
from linewatch.control_plane.s3_api.context import XML, Action, S3Context, S3Request
from linewatch.control_plane.s3_api.errors import S3Error, render, translate
from linewatch.control_plane.s3_api.multipart import Multipart
from linewatch.control_plane.services import Call, Services

log = logging.getLogger(__name__)


class S3Handler:
    """Answers S3's calls."""

    def __init__(self, services: Services, pool: ThreadPoolExecutor, budget: BodyBudget) -> None:
        self._services, self._pool, self._budget = services, pool, budget
        objects = services.objects
        self._s3 = None
        if isinstance(objects, DirectoryObjects):
            self._s3 = S3Context(services, pool, budget, objects, Multipart(objects))

    def handles(self, context: RequestContext) -> bool:
        """Whether a request is one of S3: by its signature, or, unsigned, by not being anything else."""
        try:
            return parse_signature(context.raw).service == "s3"
        except ApiError:
            return True

    async def answer(self, context: RequestContext) -> None:
        """Answer a request, whatever it is.

        Raises:
            ClientGoneError: the client closed its connection.
        """
        context.facts["eventSource"] = "s3.amazonaws.com"
        try:
            await self._answer(context)
        except LinewatchError as error:
            await self.refuse(context, error)
        except ClientGoneError:
            raise
        # A fault of ours: the log has the trace, the client an id to ask with.
        except Exception as error:
            log.exception("request %s failed", context.request_id)
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            message = "no space left for objects" if full else context.fault_message
            await self.refuse(context, S3Error("InternalError", 503 if full else 500, message))

    async def refuse(self, context: RequestContext, reason: LinewatchError) -> None:
        """Answer with an error.

        Raises:
            ClientGoneError: an answer has begun already; the connection is to be broken.
        """
        error = translate(reason)
        context.facts |= {"errorCode": error.code, "errorMessage": str(error)[:500]}
        if context.status:  # in the midst of an answer: breaking the connection is all that is left to say
            raise ClientGoneError
        await context.drain()
        await context.answer(error.status, XML, render(error, context.path, context.request_id))

    async def _answer(self, context: RequestContext) -> None:
        bucket, _, key = context.path.removeprefix("/").partition("/")
        query = dict(query_pairs(context.query))
        url = sigv2.parse_signature(context.raw)
        if url is not None:
            context.headers = {**url.headers, **context.headers}
        name, action, permission = find_action(context, bool(bucket), bool(key), query)
        context.facts |= {"eventName": name, "readOnly": context.method in ("GET", "HEAD"),
                           "requestParameters": {"bucket": bucket[:80], "key": unquote(key)[:500]}}  # fmt: skip
        if self._s3 is None:
            raise S3Error("NotImplemented", 501, "the objects of this server lie in S3; call that endpoint")
        if url is not None:
            caller: Caller = await in_thread(self._pool, identify_url, self._services, context.raw, url)
        else:
            caller = await in_thread(self._pool, identify, self._services, context.raw)
        context.facts |= {
            "accessKey": caller.identity.access_key,
            "account": caller.scope.account,
            "region": caller.scope.region,
        }
        request = S3Request(context, caller, unquote(bucket), unquote(key), query)
        if caller.signature is not None and declared_hash(context.raw, caller.signature) is not None:
            request.signing_key = verify_signature(caller, context.raw, None)
        elif caller.signature is not None:
            body = await context.body(DOCUMENT_BYTES, self._budget)
            request.signing_key = verify_signature(caller, context.raw, sha256(body))
            context.receive, context.ended = _replay(body), False
        await in_thread(self._pool, _authorize, request.call(self._services), request, name, permission)
        refuse_unsupported_headers(context.headers)
        await action(self._s3, request)


def _authorize(call: Call, request: S3Request, name: str, permission: str) -> None:
    """Refuse what the caller may not do.

    Raises:
        AccessDeniedError: the caller's policy does not allow it, or the bucket is not of the account that is meant.
    """
    if name in ("CreateBucket", "ListBuckets"):  # whose a bucket is does not matter, or decides what is listed
        call.require(permission, f"arn:aws:s3:::{request.bucket}")
        return
    if name == "DeleteObjects":  # each key is asked about by itself
        call.require_bucket(request.bucket)
    else:
        call.require_object(permission, request.bucket, request.key)
    expected = request.context.headers.get("x-amz-expected-bucket-owner", call.scope.account)
    if expected != call.scope.account:
        raise AccessDeniedError(f"the bucket {request.bucket[:80]} belongs to {call.scope.account}, not to {expected[:40]}")


_IGNORED = {"x-id", "encoding-type", "list-type", "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "marker",
            "fetch-owner", "versionId", "partNumber", "uploadId", "allow-unordered", "content-md5", "content-type",
            *sigv2.NAMES}  # fmt: skip
_RESPONSE = re.compile(r"response-|X-Amz-|x-amz-", re.IGNORECASE)


_ACTIONS: dict[tuple[str, str, str], tuple[str, Action, str]] = {
    ("GET", "service", ""): ("ListBuckets", buckets.list_buckets, "s3:ListAllMyBuckets"),
    ("PUT", "bucket", ""): ("CreateBucket", buckets.create_bucket, "s3:CreateBucket"),
    ("HEAD", "bucket", ""): ("HeadBucket", buckets.head_bucket, "s3:ListBucket"),
    ("GET", "bucket", ""): ("ListObjects", buckets.list_objects, "s3:ListBucket"),
    ("GET", "bucket", "location"): ("GetBucketLocation", buckets.get_bucket_location, "s3:GetBucketLocation"),
    ("DELETE", "bucket", ""): ("DeleteBucket", buckets.delete_bucket, "s3:DeleteBucket"),
    ("POST", "bucket", "delete"): ("DeleteObjects", object_actions.delete_objects, "s3:DeleteObject"),
    ("PUT", "object", ""): ("PutObject", object_actions.put_object, "s3:PutObject"),
    ("PUT", "object", "copy"): ("CopyObject", object_actions.copy_object, "s3:PutObject"),
    ("GET", "object", ""): ("GetObject", object_actions.get_object, "s3:GetObject"),
    ("HEAD", "object", ""): ("HeadObject", object_actions.get_object, "s3:GetObject"),
    ("DELETE", "object", ""): ("DeleteObject", object_actions.delete_object, "s3:DeleteObject"),
    ("POST", "object", "uploads"): ("CreateMultipartUpload", upload_actions.create_multipart_upload, "s3:PutObject"),
    ("PUT", "upload", ""): ("UploadPart", upload_actions.upload_part, "s3:PutObject"),
    ("PUT", "upload", "copy"): ("UploadPartCopy", upload_actions.upload_part, "s3:PutObject"),
    ("GET", "upload", ""): ("ListParts", upload_actions.list_parts, "s3:GetObject"),
    ("POST", "upload", ""): ("CompleteMultipartUpload", upload_actions.complete_multipart_upload, "s3:PutObject"),
    ("DELETE", "upload", ""): ("AbortMultipartUpload", upload_actions.abort_multipart_upload, "s3:PutObject"),
}
"""(method, what it is about, what the query or a header adds) to name, method and permission."""


def find_action(context: RequestContext, bucket: bool, key: bool, query: dict[str, str]) -> tuple[str, Action, str]:
    """Name, method and permission of a call.

    Args:
        context: of the request: its method and headers.
        bucket: whether the path names one.
        key: whether the path names one.
        query: decoded.

    Raises:
        S3Error: a part of S3 that this server does not have.
    """
    extra = sorted(q for q in query if q not in _IGNORED and not _RESPONSE.match(q))
    if "x-amz-copy-source" in context.headers:
        extra.append("copy")
    what = "service" if not bucket else "bucket" if not key else "upload" if "uploadId" in query else "object"
    found = _ACTIONS.get((context.method, what, ",".join(extra)))
    if found is None or (what == "upload" and context.method == "PUT" and "partNumber" not in query):
        raise S3Error(
            "NotImplemented", 501, f"{context.method} of a {what} with {', '.join(extra) or 'this query'} is a part of S3 that "
            "this server does not have; its how-to guide lists those it has"
        )  # fmt: skip
    return found


def _replay(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
