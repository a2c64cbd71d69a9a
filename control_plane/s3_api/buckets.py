"""Actions on buckets."""

from linewatch.control_plane.request_context import in_thread
from linewatch.control_plane.s3_api import documents as xml
from linewatch.control_plane.s3_api.checksums import check_document
from linewatch.control_plane.s3_api.context import XML, S3Context, S3Request, read_document, require_bucket
from linewatch.control_plane.s3_api.errors import S3Error
from linewatch.control_plane.s3_api.listing import list_objects as render_listing


async def list_buckets(s3: S3Context, request: S3Request) -> None:
    """ListBuckets: the account's."""
    account = request.caller.scope.account
    found = await in_thread(s3.pool, s3.objects.buckets, account)
    owner = [("ID", account), ("DisplayName", "linewatch")]
    buckets = [("Bucket", [("Name", name), ("CreationDate", xml.iso(created))]) for name, created in found]
    body = xml.document("ListAllMyBucketsResult", [("Owner", owner), ("Buckets", buckets)])
    await request.context.answer(200, XML, body)


async def create_bucket(s3: S3Context, request: S3Request) -> None:
    """CreateBucket. Names are those of all accounts, as on S3.

    Raises:
        S3Error: the bucket is there already, in a region where S3 says so.
        BucketTakenError: it is another account's.
        InvalidNameError: the name is not allowed.
    """
    check_document(request.context.headers, await read_document(s3, request))
    made = await in_thread(s3.pool, s3.objects.create_bucket, request.bucket, request.caller.scope.account)
    # S3 answers so everywhere but in us-east-1, where scripts that run twice rely on success.
    if not made and request.caller.scope.region != "us-east-1":
        raise S3Error("BucketAlreadyOwnedByYou", 409, f"the bucket {request.bucket} exists and is yours")
    await request.context.answer(200, [("location", f"/{request.bucket}")])


async def head_bucket(s3: S3Context, request: S3Request) -> None:
    """HeadBucket."""
    require_bucket(s3, request)
    await request.context.answer(200, [("x-amz-bucket-region", request.caller.scope.region)])


async def get_bucket_location(s3: S3Context, request: S3Request) -> None:
    """GetBucketLocation: the region that the caller signs for; every region is here."""
    require_bucket(s3, request)
    region = request.caller.scope.region
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{xml.NAMESPACE}">'
    body += ("" if region == "us-east-1" else region) + "</LocationConstraint>"
    await request.context.answer(200, XML, body.encode())


async def delete_bucket(s3: S3Context, request: S3Request) -> None:
    """DeleteBucket."""
    await in_thread(s3.pool, s3.objects.delete_bucket, request.bucket)
    await request.context.answer(204, [])


async def list_objects(s3: S3Context, request: S3Request) -> None:
    """ListObjects and ListObjectsV2."""
    body = await in_thread(s3.pool, render_listing, s3.objects, request.bucket, request.query)
    await request.context.answer(200, XML, body)
