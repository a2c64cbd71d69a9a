"""Actions on objects."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.exchange import ClientGoneError, in_thread
from linewatch.control_plane.objects.notes import Note
from linewatch.control_plane.s3_door import documents as xml
from linewatch.control_plane.s3_door.checksums import check_document
from linewatch.control_plane.s3_door.conditions import is_unchanged, write_check
from linewatch.control_plane.s3_door.desk import (
    BLOCK,
    META,
    XML,
    Desk,
    Request,
    about,
    byte_range,
    read_document,
    receive,
    require_bucket,
)
from linewatch.control_plane.s3_door.errors import S3Error, translate

_KEYS = 1000


async def put_object(desk: Desk, request: Request) -> None:
    """PutObject."""
    require_bucket(desk, request)
    check = write_check(request.exchange.headers)
    came = await receive(desk, request)
    await in_thread(desk.pool, desk.objects.adopt, request.bucket, request.key, came.path, came.md5, *about(request), check)
    await request.exchange.answer(200, [("etag", f'"{came.md5}"'), *came.told])


async def copy_object(desk: Desk, request: Request) -> None:
    """CopyObject."""
    check = write_check(request.exchange.headers)
    note, modified, incoming, etag = await in_thread(desk.pool, copy_source, desk, request)
    replace = request.exchange.headers.get("x-amz-metadata-directive") == "REPLACE"
    told = about(request) if replace else (note.content_type, note.metadata)
    await in_thread(desk.pool, desk.objects.adopt, request.bucket, request.key, incoming, etag, *told, check)
    body = xml.document("CopyObjectResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
    await request.exchange.answer(200, XML, body)


def copy_source(desk: Desk, request: Request) -> tuple[Note, float, Path, str]:
    """The object that x-amz-copy-source names, copied to a file of ours: its note, time, the file and its MD5."""
    headers = request.exchange.headers
    bucket, _, key = unquote(headers["x-amz-copy-source"].partition("?")[0]).removeprefix("/").partition("/")
    request.call(desk.services).require_object("s3:GetObject", bucket, key)
    expected = headers.get("x-amz-source-expected-bucket-owner", request.caller.scope.account)
    if expected != request.caller.scope.account:
        raise S3Error("AccessDenied", 403, f"the bucket {bucket[:80]} does not belong to {expected[:40]}")
    require_bucket(desk, request)
    note, modified, path = desk.objects.note(bucket, key)
    if is_unchanged(headers, note.etag, modified, "x-amz-copy-source-"):
        raise S3Error("PreconditionFailed", 412, "the object to copy is not the one that the conditions ask for")
    first, last = 0, note.size - 1
    if "x-amz-copy-source-range" in headers:
        first, last = byte_range(headers["x-amz-copy-source-range"], note.size) or (first, last)
    incoming, md5 = desk.objects.incoming(), hashlib.md5(usedforsecurity=False)
    with incoming.open("xb") as target:
        if not key.endswith("/"):
            with path.open("rb") as source:
                source.seek(first)
                left = last - first + 1
                while left and (block := source.read(min(BLOCK, left))):
                    md5.update(block)
                    target.write(block)
                    left -= len(block)
    return note, modified, incoming, md5.hexdigest()


async def get_object(desk: Desk, request: Request) -> None:
    """GetObject, whole or a range; HeadObject."""
    exchange = request.exchange
    note, modified, path = await in_thread(desk.pool, desk.objects.note, request.bucket, request.key)
    headers = exchange.headers
    common = [("etag", f'"{note.etag}"'), ("last-modified", xml.http_date(modified)), ("accept-ranges", "bytes")]
    if is_unchanged(headers, note.etag, modified):
        await exchange.answer(304, common)
        return
    common += [("content-type", note.content_type), *((f"{META}{k}", v) for k, v in note.metadata.items())]
    span = byte_range(headers["range"], note.size) if "range" in headers else None
    first, last = span or (0, note.size - 1)
    status = 206 if span else 200
    if span:
        common.append(("content-range", f"bytes {first}-{last}/{note.size}"))
    left = last - first + 1
    await exchange.begin(status, [*common, ("content-length", str(left))])
    if exchange.method == "HEAD" or not left:
        await exchange.send({"type": "http.response.body", "body": b""})
        return
    with path.open("rb") as stream:
        stream.seek(first)
        while left:
            block = await in_thread(desk.pool, stream.read, min(BLOCK, left))
            if not block:  # it was made smaller meanwhile
                raise ClientGoneError
            left -= len(block)
            await exchange.send({"type": "http.response.body", "body": block, "more_body": left > 0})


async def delete_object(desk: Desk, request: Request) -> None:
    """DeleteObject."""
    check = write_check(request.exchange.headers)
    await in_thread(desk.pool, desk.objects.delete, request.bucket, request.key, check)
    await request.exchange.answer(204, [])


async def delete_objects(desk: Desk, request: Request) -> None:
    """DeleteObjects: up to a thousand keys."""
    body = await read_document(desk, request)
    check_document(request.exchange.headers, body)
    root = xml.parse(body, "Delete")
    items = xml.children(root, "Object")
    if len(items) > _KEYS:
        raise S3Error("MalformedXML", 400, f"{len(items)} keys; at most {_KEYS} are deleted at a time")
    call = request.call(desk.services)
    results: list[tuple[str, Any]] = []
    for item in items:
        key, etag = xml.text_of(item, "Key") or "", xml.text_of(item, "ETag")
        try:
            call.require("s3:DeleteObject", f"arn:aws:s3:::{request.bucket}/{key}")
            check = write_check({} if etag is None else {"if-match": etag})
            await in_thread(desk.pool, desk.objects.delete, request.bucket, key, check)
            if xml.text_of(root, "Quiet") != "true":
                results.append(("Deleted", [("Key", key)]))
        except LinewatchError as error:
            said = translate(error)
            results.append(("Error", [("Key", key), ("Code", said.code), ("Message", str(said))]))
    await request.exchange.answer(200, XML, xml.document("DeleteResult", results))
