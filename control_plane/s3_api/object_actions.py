"""Actions on objects."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.limits import DELETED_KEYS
from linewatch.control_plane.objects.metadata import ObjectMetadata
from linewatch.control_plane.request_context import ClientGoneError, in_thread
from linewatch.control_plane.s3_api import documents as xml
from linewatch.control_plane.s3_api.checksums import check_document
from linewatch.control_plane.s3_api.conditions import is_unchanged, write_precondition
from linewatch.control_plane.s3_api.context import (
    BLOCK,
    META,
    XML,
    S3Context,
    S3Request,
    byte_range,
    content_metadata,
    read_document,
    receive,
    require_bucket,
)
from linewatch.control_plane.s3_api.errors import S3Error, translate


async def put_object(s3: S3Context, request: S3Request) -> None:
    """PutObject."""
    require_bucket(s3, request)
    check = write_precondition(request.context.headers)
    received = await receive(s3, request)
    await in_thread(s3.pool, s3.objects.adopt, request.bucket, request.key, received.path, received.md5, *content_metadata(request), check)
    await request.context.answer(200, [("etag", f'"{received.md5}"'), *received.checksum_headers])


async def copy_object(s3: S3Context, request: S3Request) -> None:
    """CopyObject."""
    check = write_precondition(request.context.headers)
    stored, modified, incoming, etag = await in_thread(s3.pool, copy_source, s3, request)
    replace = request.context.headers.get("x-amz-metadata-directive") == "REPLACE"
    described = content_metadata(request) if replace else (stored.content_type, stored.metadata)
    await in_thread(s3.pool, s3.objects.adopt, request.bucket, request.key, incoming, etag, *described, check)
    body = xml.document("CopyObjectResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
    await request.context.answer(200, XML, body)


def copy_source(s3: S3Context, request: S3Request) -> tuple[ObjectMetadata, float, Path, str]:
    """The object that x-amz-copy-source names, copied to a file of ours: its metadata, time, the file and its MD5.

    Raises:
        S3Error: the source's owner, or the source, is not the one that the headers ask for.
        AccessDeniedError: the caller may not read it.
        NoSuchObjectError: it is not there.
    """
    headers = request.context.headers
    bucket, _, key = unquote(headers["x-amz-copy-source"].partition("?")[0]).removeprefix("/").partition("/")
    request.call(s3.services).require_object("s3:GetObject", bucket, key)
    expected = headers.get("x-amz-source-expected-bucket-owner", request.caller.scope.account)
    if expected != request.caller.scope.account:
        raise S3Error("AccessDenied", 403, f"the bucket {bucket[:80]} does not belong to {expected[:40]}")
    require_bucket(s3, request)
    stored, modified, path = s3.objects.describe(bucket, key)
    if is_unchanged(headers, stored.etag, modified, "x-amz-copy-source-"):
        raise S3Error("PreconditionFailed", 412, "the object to copy is not the one that the conditions ask for")
    first, last = 0, stored.size - 1
    if "x-amz-copy-source-range" in headers:
        first, last = byte_range(headers["x-amz-copy-source-range"], stored.size) or (first, last)
    incoming, md5 = s3.objects.incoming(), hashlib.md5(usedforsecurity=False)
    with incoming.open("xb") as target:
        if not key.endswith("/"):
            with path.open("rb") as source:
                source.seek(first)
                left = last - first + 1
                while left and (block := source.read(min(BLOCK, left))):
                    md5.update(block)
                    target.write(block)
                    left -= len(block)
    return stored, modified, incoming, md5.hexdigest()


async def get_object(s3: S3Context, request: S3Request) -> None:
    """GetObject, whole or a range; HeadObject.

    Raises:
        NoSuchObjectError: it is not there.
        ClientGoneError: it was made smaller while it was sent; the connection is to be broken.
    """
    context = request.context
    stored, modified, path = await in_thread(s3.pool, s3.objects.describe, request.bucket, request.key)
    headers = context.headers
    common = [("etag", f'"{stored.etag}"'), ("last-modified", xml.http_date(modified)), ("accept-ranges", "bytes")]
    if is_unchanged(headers, stored.etag, modified):
        await context.answer(304, common)
        return
    common += [("content-type", stored.content_type), *((f"{META}{k}", v) for k, v in stored.metadata.items())]
    span = byte_range(headers["range"], stored.size) if "range" in headers else None
    first, last = span or (0, stored.size - 1)
    status = 206 if span else 200
    if span:
        common.append(("content-range", f"bytes {first}-{last}/{stored.size}"))
    left = last - first + 1
    await context.begin(status, [*common, ("content-length", str(left))])
    if context.method == "HEAD" or not left:
        await context.send({"type": "http.response.body", "body": b""})
        return
    with path.open("rb") as stream:
        stream.seek(first)
        while left:
            block = await in_thread(s3.pool, stream.read, min(BLOCK, left))
            if not block:  # it was made smaller meanwhile
                raise ClientGoneError
            left -= len(block)
            await context.send({"type": "http.response.body", "body": block, "more_body": left > 0})


async def delete_object(s3: S3Context, request: S3Request) -> None:
    """DeleteObject."""
    check = write_precondition(request.context.headers)
    await in_thread(s3.pool, s3.objects.delete, request.bucket, request.key, check)
    await request.context.answer(204, [])


async def delete_objects(s3: S3Context, request: S3Request) -> None:
    """DeleteObjects: up to a thousand keys.

    Raises:
        S3Error: malformed, or too many keys. What is wrong with one key is in the answer.
    """
    body = await read_document(s3, request)
    check_document(request.context.headers, body)
    root = xml.parse(body, "Delete")
    items = xml.children(root, "Object")
    if len(items) > DELETED_KEYS:
        raise S3Error("MalformedXML", 400, f"{len(items)} keys; at most {DELETED_KEYS} are deleted at a time")
    call = request.call(s3.services)
    results: list[tuple[str, Any]] = []
    for item in items:
        key, etag = xml.text_of(item, "Key") or "", xml.text_of(item, "ETag")
        try:
            call.require("s3:DeleteObject", f"arn:aws:s3:::{request.bucket}/{key}")
            check = write_precondition({} if etag is None else {"if-match": etag})
            await in_thread(s3.pool, s3.objects.delete, request.bucket, key, check)
            if xml.text_of(root, "Quiet") != "true":
                results.append(("Deleted", [("Key", key)]))
        except LinewatchError as error:
            said = translate(error)
            results.append(("Error", [("Key", key), ("Code", said.code), ("Message", str(said))]))
    await request.context.answer(200, XML, xml.document("DeleteResult", results))
