"""Actions on multipart uploads."""

import shutil
from functools import partial
from xml.etree.ElementTree import Element

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.limits import PARTS
from linewatch.control_plane.request_context import in_thread
from linewatch.control_plane.s3_api import documents as xml
from linewatch.control_plane.s3_api.checksums import ALGORITHMS, read_value
from linewatch.control_plane.s3_api.conditions import write_precondition
from linewatch.control_plane.s3_api.context import (
    XML,
    S3Context,
    S3Request,
    content_metadata,
    read_document,
    receive,
    require_bucket,
)
from linewatch.control_plane.s3_api.errors import S3Error
from linewatch.control_plane.s3_api.multipart import Part, Upload, read_whole
from linewatch.control_plane.s3_api.object_actions import copy_source


async def create_multipart_upload(s3: S3Context, request: S3Request) -> None:
    """CreateMultipartUpload."""
    require_bucket(s3, request)
    content_type, metadata = content_metadata(request)
    upload = Upload(request.bucket, request.key, content_type, metadata)
    upload_id = await in_thread(s3.pool, s3.uploads.begin, upload)
    body = xml.document("InitiateMultipartUploadResult",
                        [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload_id)])  # fmt: skip
    await request.context.answer(200, XML, body)


async def upload_part(s3: S3Context, request: S3Request) -> None:
    """UploadPart and UploadPartCopy."""
    number = _part_number(request.query["partNumber"])
    folder, _ = s3.uploads.find(request.query["uploadId"], request.bucket, request.key)
    if "x-amz-copy-source" in request.context.headers:
        _, modified, incoming, etag = await in_thread(s3.pool, copy_source, s3, request)
        await in_thread(s3.pool, s3.uploads.add_part, folder, number, incoming, etag)
        body = xml.document("CopyPartResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
        await request.context.answer(200, XML, body)
        return
    received = await receive(s3, request)
    await in_thread(s3.pool, s3.uploads.add_part, folder, number, received.path, received.md5)
    await request.context.answer(200, [("etag", f'"{received.md5}"'), *received.checksum_headers])


def _part_number(text: str) -> int:
    number = read_digits(text, PARTS)
    if not number:
        raise S3Error("InvalidArgument", 400, f"the part number is {text[:40]!r}; expected 1 to {PARTS}")
    return number


async def complete_multipart_upload(s3: S3Context, request: S3Request) -> None:
    """CompleteMultipartUpload."""
    folder, upload = s3.uploads.find(request.query["uploadId"], request.bucket, request.key)
    headers = request.context.headers
    root = xml.parse(await read_document(s3, request), "CompleteMultipartUpload")
    parts = [_read_part(item) for item in xml.children(root, "Part")]
    whole = read_whole(headers)
    etag = await in_thread(s3.pool, s3.uploads.complete, folder, upload, parts, whole, write_precondition(headers))
    body = xml.document("CompleteMultipartUploadResult", [
        ("Location", request.context.path), ("Bucket", request.bucket), ("Key", request.key), ("ETag", f'"{etag}"'),
    ])  # fmt: skip
    await request.context.answer(200, XML, body)


def _read_part(item: Element) -> Part:
    """A part that a client wants in the object."""
    checksums = {}
    for algorithm in ALGORITHMS:
        text = xml.text_of(item, f"Checksum{algorithm.upper()}")
        if text:
            checksums[algorithm] = read_value(algorithm, text)
    return Part(_part_number(xml.text_of(item, "PartNumber") or ""), (xml.text_of(item, "ETag") or "").strip('"'), checksums)


async def abort_multipart_upload(s3: S3Context, request: S3Request) -> None:
    """AbortMultipartUpload."""
    folder, _ = s3.uploads.find(request.query["uploadId"], request.bucket, request.key)
    await in_thread(s3.pool, partial(shutil.rmtree, folder, ignore_errors=True))
    await request.context.answer(204, [])


async def list_parts(s3: S3Context, request: S3Request) -> None:
    """ListParts."""
    folder, _ = s3.uploads.find(request.query["uploadId"], request.bucket, request.key)
    found = await in_thread(s3.pool, s3.uploads.parts, folder)
    parts = [("Part", [("PartNumber", n), ("ETag", f'"{e}"'), ("Size", p.stat().st_size)]) for n, (e, p) in found.items()]
    body = xml.document("ListPartsResult", [
        ("Bucket", request.bucket), ("Key", request.key), ("UploadId", request.query["uploadId"]), ("IsTruncated", False),
        *parts,
    ])  # fmt: skip
    await request.context.answer(200, XML, body)
