"""The S3 API with boto3 as it is today: its own transfer manager, every action, and errors as S3 names them."""

import hashlib
import os
import secrets
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.conftest import old_client
from tests.contract.control_plane.conftest import Bench
from tests.server import REGION

REGIONAL = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}


@pytest.fixture
def bucket(bench: Bench) -> str:
    name = f"bucket-{secrets.token_hex(4)}"
    bench.s3.create_bucket(Bucket=name, **REGIONAL)
    return name


def code(call: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_buckets(bench: Bench, bucket: str) -> None:
    assert bucket in [b["Name"] for b in bench.s3.list_buckets()["Buckets"]]
    bench.s3.head_bucket(Bucket=bucket)
    assert bench.s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
    assert code(lambda: bench.s3.create_bucket(Bucket=bucket, **REGIONAL)) == ("BucketAlreadyOwnedByYou", 409)
    bench.server.client(bench.server.credential(), "s3", "us-east-1").create_bucket(Bucket=bucket)
    bench.s3.put_object(Bucket=bucket, Key="a", Body=b"")
    assert code(lambda: bench.s3.delete_bucket(Bucket=bucket)) == ("BucketNotEmpty", 409)
    bench.s3.delete_object(Bucket=bucket, Key="a")
    bench.s3.delete_bucket(Bucket=bucket)
    assert code(lambda: bench.s3.head_bucket(Bucket=bucket)) == ("404", 404)
    assert code(lambda: bench.s3.list_objects_v2(Bucket=bucket)) == ("NoSuchBucket", 404)


def test_objects(bench: Bench, bucket: str) -> None:
    body = bytes(range(256)) * 10
    put = bench.s3.put_object(Bucket=bucket, Key="ä b/c+d.bin", Body=body, ContentType="image/png", Metadata={"part": "7"},
                              ServerSideEncryption="AES256")  # fmt: skip
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'  # noqa: S324
    got = bench.s3.get_object(Bucket=bucket, Key="ä b/c+d.bin")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "image/png", {"part": "7"})
    head = bench.s3.head_object(Bucket=bucket, Key="ä b/c+d.bin")
    assert (head["ContentLength"], head["ETag"]) == (len(body), put["ETag"])
    for text, expected in (("bytes=0-9", body[:10]), ("bytes=2550-", body[2550:]), ("bytes=-5", body[-5:]), ("bytes=5-99999", body[5:])):
        part = bench.s3.get_object(Bucket=bucket, Key="ä b/c+d.bin", Range=text)
        assert (part["Body"].read(), part["ResponseMetadata"]["HTTPStatusCode"]) == (expected, 206)
    assert code(lambda: bench.s3.get_object(Bucket=bucket, Key="ä b/c+d.bin", Range="bytes=9999-")) == ("InvalidRange", 416)
    assert code(lambda: bench.s3.get_object(Bucket=bucket, Key="none")) == ("NoSuchKey", 404)
    assert code(lambda: bench.s3.head_object(Bucket=bucket, Key="none")) == ("404", 404)
    assert code(lambda: bench.s3.get_object(Bucket=bucket, Key="ä b/c+d.bin", IfNoneMatch=put["ETag"])) == ("304", 304)
    assert code(lambda: bench.s3.get_object(Bucket=bucket, Key="ä b/c+d.bin", IfMatch='"x"')) == ("PreconditionFailed", 412)
    bench.s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "ä b/c+d.bin"})
    assert bench.s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"part": "7"}
    bench.s3.delete_object(Bucket=bucket, Key="never")
    gone = bench.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "copy"}, {"Key": "ä b/c+d.bin"}]})
    assert sorted(d["Key"] for d in gone["Deleted"]) == ["copy", "ä b/c+d.bin"]
    assert bench.s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_listing(bench: Bench, bucket: str) -> None:
    keys = sorted([f"train/{i:03d}.png" for i in range(25)] + ["a", "train.manifest", "train-2/x", "zz/ü.png"])
    for key in keys:
        bench.s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages = bench.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
    assert [o["Key"] for p in pages for o in p["Contents"]] == keys
    found = bench.s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [o["Key"] for o in found["Contents"]] == ["a", "train.manifest"]
    assert [p["Prefix"] for p in found["CommonPrefixes"]] == ["train-2/", "train/", "zz/"]
    assert [o["Key"] for o in bench.s3.list_objects_v2(Bucket=bucket, StartAfter="train/022.png")["Contents"]] == [
        "train/023.png", "train/024.png", "zz/ü.png",
    ]  # fmt: skip
    pages = bench.s3.get_paginator("list_objects").paginate(Bucket=bucket, Prefix="train/", PaginationConfig={"PageSize": 10})
    assert sum(len(p["Contents"]) for p in pages) == 25


def test_the_transfer_manager(bench: Bench, bucket: str, tmp_path: Path) -> None:
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    source, target = tmp_path / "big", tmp_path / "back"
    source.write_bytes(secrets.token_bytes((12 << 20) + 17))
    bench.s3.upload_file(str(source), bucket, "deep/big", Config=config, ExtraArgs={"ContentType": "image/png"})
    assert bench.s3.head_object(Bucket=bucket, Key="deep/big")["ETag"].endswith('-3"')
    bench.s3.download_file(bucket, "deep/big", str(target), Config=config)
    assert source.read_bytes() == target.read_bytes()
    bench.s3.copy({"Bucket": bucket, "Key": "deep/big"}, bucket, "copy", Config=config)
    bench.s3.download_file(bucket, "copy", str(target), Config=config)
    assert source.read_bytes() == target.read_bytes()
    assert bench.s3.head_object(Bucket=bucket, Key="copy")["ContentType"] == "image/png"


def test_multipart_by_hand(bench: Bench, bucket: str) -> None:
    upload = bench.s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    etag = bench.s3.upload_part(**where, PartNumber=1, Body=b"one")["ETag"]
    assert [p["Size"] for p in bench.s3.list_parts(**where)["Parts"]] == [3]
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"0"'}]}
    assert code(lambda: bench.s3.complete_multipart_upload(**where, MultipartUpload=wrong)) == ("InvalidPart", 400)
    assert code(lambda: bench.s3.upload_part(**where, PartNumber=10001, Body=b"")) == ("InvalidArgument", 400)
    assert code(lambda: bench.s3.get_object(Bucket=bucket, Key="k")) == ("NoSuchKey", 404)
    bench.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert bench.s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"one"
    upload = bench.s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    bench.s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert code(lambda: bench.s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)) == ("NoSuchUpload", 404)


def test_what_is_refused(bench: Bench, bucket: str) -> None:
    put = bench.s3.put_object
    assert code(lambda: put(Bucket=bucket, Key="a/../b", Body=b"x")) == ("InvalidArgument", 400)
    bench.s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    assert code(lambda: put(Bucket=bucket, Key="a/b", Body=b"x")) == ("InvalidArgument", 400)
    assert code(lambda: put(Bucket="no-such-bucket", Key="a", Body=b"x")) == ("NoSuchBucket", 404)
    assert code(lambda: bench.s3.get_bucket_versioning(Bucket=bucket)) == ("NotImplemented", 501)
    limited = bench.server.client(bench.server.credential(_only("s3:GetObject")), "s3")
    assert limited.get_object(Bucket=bucket, Key="a")["Body"].read() == b"x"
    assert code(lambda: limited.put_object(Bucket=bucket, Key="a", Body=b"y")) == ("AccessDenied", 403)
    assert code(lambda: limited.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "a"})) == ("AccessDenied", 403)
    assert bench.s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"x"


def _only(*actions: str, **extra: Any) -> Any:
    from tests.contract.control_plane.conftest import policy

    return policy(*actions, **extra)


def test_another_secret(bench: Bench, bucket: str) -> None:
    key = bench.server.credential() | {"aws_secret_access_key": "x" * 40}
    client = bench.server.client(key, "s3")
    assert code(lambda: client.list_objects_v2(Bucket=bucket)) == ("SignatureDoesNotMatch", 403)
    unknown = bench.server.client({"aws_access_key_id": "AKIANONE", "aws_secret_access_key": "x"}, "s3")
    assert code(lambda: unknown.list_objects_v2(Bucket=bucket)) == ("InvalidAccessKeyId", 403)


def test_a_changed_body_leaves_nothing(bench: Bench, bucket: str) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from tests.contract.control_plane.test_calls import send

    key = bench.server.credential()
    request = AWSRequest("PUT", f"{bench.server.url}/{bucket}/k", {}, b"one")
    S3SigV4Auth(Credentials(key["aws_access_key_id"], key["aws_secret_access_key"]), "s3", REGION).add_auth(request)
    status, _, body = send(bench.server, "PUT", f"/{bucket}/k", b"two", dict(request.headers))
    assert (status, b"SignatureDoesNotMatch" in body) == (403, True)
    assert code(lambda: bench.s3.head_object(Bucket=bucket, Key="k")) == ("404", 404)


def test_another_account_has_nothing_here(bench: Bench, bucket: str) -> None:
    put = bench.s3.put_object(Bucket=bucket, Key="k", Body=b"one")
    upload = bench.s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    other = bench.server.client(bench.server.credential(account="999988887777"), "s3")
    where = {"Bucket": bucket, "Key": "k"}
    theirs = f"theirs-{bucket}"
    other.create_bucket(Bucket=theirs, **REGIONAL)
    for call in (
        lambda: other.list_objects_v2(Bucket=bucket), lambda: other.get_bucket_location(Bucket=bucket),
        lambda: other.get_object(**where), lambda: other.put_object(**where, Body=b"two"), lambda: other.delete_object(**where),
        lambda: other.delete_bucket(Bucket=bucket), lambda: other.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]}),
        lambda: other.copy_object(Bucket=theirs, Key="c", CopySource=where), lambda: other.create_multipart_upload(**where),
        lambda: other.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": theirs, "Key": "k"}),
        lambda: other.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x"), lambda: other.list_parts(**where, UploadId=upload),
        lambda: other.abort_multipart_upload(**where, UploadId=upload),
        lambda: other.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]}),
    ):  # fmt: skip
        assert code(call) == ("AccessDenied", 403)
    assert code(lambda: other.head_object(**where)) == ("403", 403)
    assert code(lambda: other.head_bucket(Bucket=bucket)) == ("403", 403)
    assert code(lambda: other.create_bucket(Bucket=bucket, **REGIONAL)) == ("BucketAlreadyExists", 409)
    assert [b["Name"] for b in other.list_buckets()["Buckets"] if bucket in b["Name"]] == [theirs]
    assert theirs not in [b["Name"] for b in bench.s3.list_buckets()["Buckets"]]
    assert bench.s3.get_object(**where)["ETag"] == put["ETag"]
    assert code(lambda: bench.s3.get_object(**where, ExpectedBucketOwner="999988887777")) == ("AccessDenied", 403)
    part = bench.s3.upload_part_copy(**where, UploadId=upload, PartNumber=1, CopySource=where)["CopyPartResult"]["ETag"]
    bench.s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})


def test_deleting_many_asks_about_each_key(bench: Bench, bucket: str) -> None:
    for key in ("a/1", "b/1"):
        bench.s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    limited = bench.server.client(bench.server.credential(_only("s3:DeleteObject", Resource=f"arn:aws:s3:::{bucket}/a/*")), "s3")
    done = limited.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/1"}, {"Key": "b/1"}]})
    assert [(d["Key"], e["Key"], e["Code"]) for d, e in zip(done["Deleted"], done["Errors"], strict=True)] == [("a/1", "b/1", "AccessDenied")]


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256"])
def test_what_a_client_says_of_a_body_is_checked(bench: Bench, bucket: str, algorithm: str) -> None:
    put = bench.s3.put_object(Bucket=bucket, Key="k", Body=b"one", ChecksumAlgorithm=algorithm)
    wrong = {f"Checksum{algorithm}": put[f"Checksum{algorithm}"]}
    assert code(lambda: bench.s3.put_object(Bucket=bucket, Key="k", Body=b"two", **wrong)) == ("BadDigest", 400)
    assert code(lambda: bench.s3.put_object(Bucket=bucket, Key="k", Body=b"two", IfNoneMatch="*")) == ("PreconditionFailed", 412)
    assert bench.s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"one"


def test_urls_that_old_clients_presign(bench: Bench, bucket: str) -> None:
    script = (
        "import boto3, sys; s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1')\n"
        "for action in ('put_object', 'get_object'): print(s3.generate_presigned_url(action, Params={'Bucket': sys.argv[2], 'Key': 'a b'}))"
    )
    key = bench.server.credential()
    environment = {**os.environ, **{name.upper(): value for name, value in key.items()}}
    done = subprocess.run([old_client(), "-c", script, bench.server.url, bucket], env=environment, capture_output=True, text=True, check=True)
    put, get = done.stdout.splitlines()
    assert "AWSAccessKeyId" in put
    with urllib.request.urlopen(urllib.request.Request(put, b"one", {"Content-Type": ""}, method="PUT"), timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(get, timeout=10) as answer:
        assert answer.read() == b"one"
