"""Actions on multipart uploads."""

import shutil
from functools import partial

from control_plane.exchange import in_thread
from control_plane.s3_door import documents as xml
from control_plane.s3_door.desk import XML, Desk, Request, about, read_document, receive, require_bucket
from control_plane.s3_door.errors import S3Error
from control_plane.s3_door.multipart import MOST_PARTS, Upload
from control_plane.s3_door.object_actions import copy_source


async def create_multipart_upload(desk: Desk, request: Request) -> None:
    """CreateMultipartUpload."""
    require_bucket(desk, request)
    content_type, metadata = about(request)
    upload = Upload(request.bucket, request.key, content_type, metadata)
    upload_id = await in_thread(desk.pool, desk.uploads.begin, upload)
    body = xml.document("InitiateMultipartUploadResult",
                        [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload_id)])  # fmt: skip
    await request.exchange.answer(200, XML, body)


async def upload_part(desk: Desk, request: Request) -> None:
    """UploadPart and UploadPartCopy."""
    text = request.query["partNumber"]
    if not text.isdigit() or not 1 <= int(text) <= MOST_PARTS:
        raise S3Error("InvalidArgument", 400, f"partNumber is {text[:40]!r}; expected 1 to {MOST_PARTS}")
    folder, _ = desk.uploads.find(request.query["uploadId"], request.bucket, request.key)
    if "x-amz-copy-source" in request.exchange.headers:
        _, modified, incoming, etag = await in_thread(desk.pool, copy_source, desk, request)
        await in_thread(desk.pool, desk.uploads.add_part, folder, int(text), incoming, etag)
        body = xml.document("CopyPartResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
        await request.exchange.answer(200, XML, body)
        return
    incoming, etag = await receive(desk, request)
    await in_thread(desk.pool, desk.uploads.add_part, folder, int(text), incoming, etag)
    await request.exchange.answer(200, [("etag", f'"{etag}"')])


async def complete_multipart_upload(desk: Desk, request: Request) -> None:
    """CompleteMultipartUpload."""
    folder, upload = desk.uploads.find(request.query["uploadId"], request.bucket, request.key)
    root = xml.parse(await read_document(desk, request), "CompleteMultipartUpload")
    wanted = []
    for part in xml.children(root, "Part"):
        number, etag = xml.text_of(part, "PartNumber") or "", (xml.text_of(part, "ETag") or "").strip('"')
        if not number.isdigit():
            raise S3Error("MalformedXML", 400, "a part has no number")
        wanted.append((int(number), etag))
    etag = await in_thread(desk.pool, desk.uploads.complete, folder, upload, wanted)
    body = xml.document("CompleteMultipartUploadResult", [
        ("Location", request.exchange.path), ("Bucket", request.bucket), ("Key", request.key), ("ETag", f'"{etag}"'),
    ])  # fmt: skip
    await request.exchange.answer(200, XML, body)


async def abort_multipart_upload(desk: Desk, request: Request) -> None:
    """AbortMultipartUpload."""
    folder, _ = desk.uploads.find(request.query["uploadId"], request.bucket, request.key)
    await in_thread(desk.pool, partial(shutil.rmtree, folder, ignore_errors=True))
    await request.exchange.answer(204, [])


async def list_parts(desk: Desk, request: Request) -> None:
    """ListParts."""
    folder, _ = desk.uploads.find(request.query["uploadId"], request.bucket, request.key)
    found = await in_thread(desk.pool, desk.uploads.parts, folder)
    parts = [("Part", [("PartNumber", n), ("ETag", f'"{e}"'), ("Size", p.stat().st_size)]) for n, (e, p) in found.items()]
    body = xml.document("ListPartsResult", [
        ("Bucket", request.bucket), ("Key", request.key), ("UploadId", request.query["uploadId"]), ("IsTruncated", False),
        *parts,
    ])  # fmt: skip
    await request.exchange.answer(200, XML, body)
