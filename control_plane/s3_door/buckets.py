"""Actions on buckets."""

from linewatch.control_plane.exchange import in_thread
from linewatch.control_plane.s3_door import documents as xml
from linewatch.control_plane.s3_door.checksums import check_document
from linewatch.control_plane.s3_door.desk import XML, Desk, Request, read_document, require_bucket
from linewatch.control_plane.s3_door.errors import S3Error
from linewatch.control_plane.s3_door.listing import list_objects as render_listing


async def list_buckets(desk: Desk, request: Request) -> None:
    """ListBuckets: the account's."""
    account = request.caller.scope.account
    found = await in_thread(desk.pool, desk.objects.buckets, account)
    owner = [("ID", account), ("DisplayName", "linewatch")]
    buckets = [("Bucket", [("Name", name), ("CreationDate", xml.iso(created))]) for name, created in found]
    body = xml.document("ListAllMyBucketsResult", [("Owner", owner), ("Buckets", buckets)])
    await request.exchange.answer(200, XML, body)


async def create_bucket(desk: Desk, request: Request) -> None:
    """CreateBucket. Names are those of all accounts, as on S3."""
    check_document(request.exchange.headers, await read_document(desk, request))
    made = await in_thread(desk.pool, desk.objects.create_bucket, request.bucket, request.caller.scope.account)
    # S3 answers so everywhere but in us-east-1, where scripts that run twice rely on success.
    if not made and request.caller.scope.region != "us-east-1":
        raise S3Error("BucketAlreadyOwnedByYou", 409, f"the bucket {request.bucket} exists and is yours")
    await request.exchange.answer(200, [("location", f"/{request.bucket}")])


async def head_bucket(desk: Desk, request: Request) -> None:
    """HeadBucket."""
    require_bucket(desk, request)
    await request.exchange.answer(200, [("x-amz-bucket-region", request.caller.scope.region)])


async def get_bucket_location(desk: Desk, request: Request) -> None:
    """GetBucketLocation: the region that the caller signs for; every region is here."""
    require_bucket(desk, request)
    region = request.caller.scope.region
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{xml.NAMESPACE}">'
    body += ("" if region == "us-east-1" else region) + "</LocationConstraint>"
    await request.exchange.answer(200, XML, body.encode())


async def delete_bucket(desk: Desk, request: Request) -> None:
    """DeleteBucket."""
    await in_thread(desk.pool, desk.objects.delete_bucket, request.bucket)
    await request.exchange.answer(204, [])


async def list_objects(desk: Desk, request: Request) -> None:
    """ListObjects and ListObjectsV2."""
    body = await in_thread(desk.pool, render_listing, desk.objects, request.bucket, request.query)
    await request.exchange.answer(200, XML, body)
