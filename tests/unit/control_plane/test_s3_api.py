"""The S3 API's answers, over ASGI and without a network: bodies, conditions, numbers, promises and presigned URLs."""

import asyncio
import base64
import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.access.audit import AuditLog
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.policy import ROLES
from linewatch.control_plane.access.registry import Registry
from linewatch.control_plane.gateway import Gateway
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.s3_api.checksums import ALGORITHMS, digest_of
from linewatch.control_plane.services import Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.wire.page_tokens import PageTokens
from tests.unit.control_plane.test_gateway import ask

Ask = Callable[..., tuple[int, dict[str, str], bytes]]
Credential = dict[str, str]


def gateway_of(folder: Path, anonymous: bool) -> Iterator[tuple[Ask, Services]]:
    options = Settings(data=str(folder), anonymous=anonymous, threads=2)
    store = Store(options.database_url)
    store.migrate()
    services = Services(options, store, DirectoryObjects(folder / "objects", options.account), MasterKey.open(folder), PageTokens(b"k"),
                        HostingManager(options, store))  # fmt: skip
    audit = AuditLog(folder / "audit.log")
    gateway = Gateway(services, audit)

    def call(method: str, path: str, body: bytes = b"", query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(ask(gateway, method, path, fields, body, query))

    yield call, services
    gateway.close()
    audit.close()
    store.close()


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Ask]:
    """Calls of a server that asks for no signature, with a bucket bkt."""
    for found, _ in gateway_of(tmp_path, anonymous=True):
        assert found("PUT", "/bkt")[0] == 200
        yield found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()  # noqa: S324


def is_error(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> bool:
    return answer[0] == status and f"<Code>{code}</Code>".encode() in answer[2]


# --- what a client says of a body


def test_a_wrong_md5_leaves_nothing(call: Ask) -> None:
    assert is_error(call("PUT", "/bkt/k", b"one", content_md5=b64(md5(b"two"))), 400, "BadDigest")
    for malformed in ("x", b64(b"short"), "\u00b2"):
        assert is_error(call("PUT", "/bkt/k", b"one", content_md5=malformed), 400, "InvalidDigest")
    assert call("GET", "/bkt/k")[0] == 404
    assert call("PUT", "/bkt/k", b"one", content_md5=b64(md5(b"one")))[0] == 200


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_leaves_nothing(call: Ask, algorithm: str) -> None:
    digest, name = digest_of(algorithm), f"x-amz-checksum-{algorithm}"
    digest.update(b"one")
    right = b64(digest.digest())
    wrong = b64(bytes(len(digest.digest())))
    assert is_error(call("PUT", "/bkt/k", b"one", **{name: wrong}), 400, "BadDigest")
    assert is_error(call("PUT", "/bkt/k", b"one", **{name: "AAAA"}), 400, "InvalidRequest")
    for trailer, code in ((wrong, "BadDigest"), (None, "MalformedTrailerError")):
        assert is_error(chunked(call, b"one", name, trailer), 400, code)
    assert call("GET", "/bkt/k")[0] == 404
    status, headers, _ = call("PUT", "/bkt/k", b"one", **{name: right})
    assert (status, headers[name]) == (200, right)
    assert chunked(call, b"one", name, right)[0] == 200


def chunked(call: Ask, data: bytes, name: str, trailer: str | None) -> tuple[int, dict[str, str], bytes]:
    body = f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n" + (f"{name}:{trailer}\r\n".encode() if trailer else b"") + b"\r\n"
    return call("PUT", "/bkt/k", body, x_amz_trailer=name, x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                x_amz_decoded_content_length=str(len(data)))  # fmt: skip


def test_a_checksum_that_cannot_be_checked_is_refused(call: Ask) -> None:
    assert is_error(call("PUT", "/bkt/k", b"one", **{"x-amz-checksum-xxhash3": "AAAAAAAAAAA="}), 501, "NotImplemented")
    both = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}
    assert is_error(call("PUT", "/bkt/k", b"one", **both), 400, "InvalidRequest")


def test_fewer_bytes_than_stated_leave_nothing(call: Ask) -> None:
    body = b"3\r\none\r\n0\r\n\r\n"
    answer = call("PUT", "/bkt/k", body, x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER", x_amz_decoded_content_length="4")
    assert is_error(answer, 400, "IncompleteBody")
    assert is_error(call("PUT", "/bkt/k", b"one", x_amz_content_sha256="0" * 64), 403, "SignatureDoesNotMatch")
    assert call("GET", "/bkt/k")[0] == 404


def test_a_wrong_digest_deletes_nothing(call: Ask) -> None:
    call("PUT", "/bkt/k", b"one")
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    assert is_error(call("POST", "/bkt", body, "delete", content_md5=b64(md5(b"two"))), 400, "BadDigest")
    assert is_error(call("POST", "/bkt", body, "delete", **{"x-amz-checksum-crc32": "AAAAAA=="}), 400, "BadDigest")
    assert call("GET", "/bkt/k")[0] == 200
    assert b"<Deleted>" in call("POST", "/bkt", body, "delete", content_md5=b64(md5(body)))[2]


def crc(data: bytes, bits: int, polynomial: int) -> bytes:
    """Bit by bit, as the definition has it; `polynomial` is reflected."""
    register = inverted = (1 << bits) - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (polynomial if register & 1 else 0)
    return (register ^ inverted).to_bytes(bits // 8, "big")


@pytest.mark.parametrize(
    ("algorithm", "bits", "polynomial"), [("crc32", 32, 0xEDB88320), ("crc32c", 32, 0x82F63B78), ("crc64nvme", 64, 0x9A6C9329AC4BC9B5)]
)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_a_crc_is_that_of_its_definition_however_it_is_cut(algorithm: str, bits: int, polynomial: int, data: bytes, cuts: list[int]) -> None:
    ends = sorted({min(c, len(data)) for c in cuts} | {len(data)})
    found = digest_of(algorithm)
    for begin, end in zip([0, *ends], ends, strict=False):
        found.update(data[begin:end])
    assert found.digest() == crc(data, bits, polynomial)


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=4), st.integers(0, 40))
def test_a_crc_is_that_of_the_library_however_it_is_cut(data: bytes, cuts: list[int], repeats: int) -> None:
    data *= repeats
    ends = sorted({min(c, len(data)) for c in cuts} | {len(data)})
    found = digest_of("crc32")
    for begin, end in zip([0, *ends], ends, strict=False):
        found.update(data[begin:end])
    assert found.digest() == zlib.crc32(data).to_bytes(4, "big")


def test_crcs_have_their_published_check_values() -> None:
    for algorithm, value in (("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")):
        digest = digest_of(algorithm)
        digest.update(b"123456789")
        assert digest.digest().hex() == value


# --- parts


def begin(call: Ask) -> str:
    return call("POST", "/bkt/k", b"", "uploads")[2].decode().partition("<UploadId>")[2].partition("<")[0]


def complete(call: Ask, upload: str, parts: list[tuple[str, str, str]], **headers: str) -> tuple[int, dict[str, str], bytes]:
    inner = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag>{more}</Part>" for n, e, more in parts)
    body = f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()
    return call("POST", "/bkt/k", body, f"uploadId={upload}", **headers)


def test_parts_and_the_whole_are_as_the_client_says(call: Ask) -> None:
    upload = begin(call)
    where = f"uploadId={upload}&partNumber="
    assert is_error(call("PUT", "/bkt/k", b"one", where + "1", content_md5=b64(md5(b"x"))), 400, "BadDigest")
    etags = [call("PUT", "/bkt/k", data, where + str(n))[1]["etag"] for n, data in ((1, b"one"), (2, b"two"))]
    crcs = [zlib.crc32(data).to_bytes(4, "big") for data in (b"one", b"two")]
    parts = [(str(n), etag, f"<ChecksumCRC32>{b64(crc)}</ChecksumCRC32>") for n, (etag, crc) in enumerate(zip(etags, crcs, strict=True), 1)]
    swapped = [(parts[0][0], parts[0][1], parts[1][2]), parts[1]]
    whole = {"x-amz-checksum-crc32": b64(zlib.crc32(b"onetwo").to_bytes(4, "big")), "x-amz-checksum-type": "FULL_OBJECT"}
    of_parts = b64(zlib.crc32(b"".join(crcs)).to_bytes(4, "big"))
    assert is_error(complete(call, upload, swapped), 400, "InvalidPart")
    for headers in (whole | {"x-amz-checksum-type": "COMPOSITE"}, {"x-amz-checksum-crc32": "AAAAAA==-2"},
                    {"x-amz-checksum-crc32": f"{of_parts}-3"}):  # fmt: skip
        assert is_error(complete(call, upload, parts, **headers), 400, "BadDigest")
    for size in ("7", "\u00b2", "9" * 5000):
        assert is_error(complete(call, upload, parts, **{"x-amz-mp-object-size": size}), 400, "InvalidRequest")
    assert call("GET", "/bkt/k")[0] == 404
    assert complete(call, upload, parts, **whole, **{"x-amz-mp-object-size": "6"})[0] == 200
    assert call("GET", "/bkt/k")[2] == b"onetwo"
    upload = begin(call)
    etag = call("PUT", "/bkt/k", b"one", f"uploadId={upload}&partNumber=1")[1]["etag"]
    alone = b64(zlib.crc32(crcs[0]).to_bytes(4, "big"))
    assert complete(call, upload, [("1", etag, "")], **{"x-amz-checksum-crc32": f"{alone}-1"})[0] == 200


# --- conditions


def test_if_none_match_keeps_what_is_there(call: Ask) -> None:
    assert call("PUT", "/bkt/k", b"one", if_none_match="*")[0] == 200
    assert is_error(call("PUT", "/bkt/k", b"two", if_none_match="*"), 412, "PreconditionFailed")
    assert is_error(call("PUT", "/bkt/k", b"two", if_none_match='"x"'), 501, "NotImplemented")
    assert is_error(call("PUT", "/bkt/k", x_amz_copy_source="/bkt/k", if_none_match="*"), 412, "PreconditionFailed")
    upload = begin(call)
    etag = call("PUT", "/bkt/k", b"two", f"uploadId={upload}&partNumber=1")[1]["etag"]
    assert is_error(complete(call, upload, [("1", etag, "")], if_none_match="*"), 412, "PreconditionFailed")
    assert call("GET", "/bkt/k")[2] == b"one"
    assert complete(call, upload, [("1", etag, "")], if_match=call("HEAD", "/bkt/k")[1]["etag"])[0] == 200


def test_if_match_changes_only_what_was_seen(call: Ask) -> None:
    assert is_error(call("PUT", "/bkt/k", b"one", if_match='"x"'), 404, "NoSuchKey")
    etag = call("PUT", "/bkt/k", b"one")[1]["etag"]
    assert is_error(call("PUT", "/bkt/k", b"two", if_match='"x"'), 412, "PreconditionFailed")
    assert is_error(call("DELETE", "/bkt/k", if_match='"x"'), 412, "PreconditionFailed")
    body = b"<Delete><Object><Key>k</Key><ETag>x</ETag></Object></Delete>"
    assert b"<Code>PreconditionFailed</Code>" in call("POST", "/bkt", body, "delete")[2]
    assert call("PUT", "/bkt/k", b"two", if_match=etag)[0] == 200
    assert call("DELETE", "/bkt/k", if_match="*")[0] == 204


def test_reading_has_conditions(call: Ask) -> None:
    etag = call("PUT", "/bkt/k", b"one")[1]["etag"]
    past, future = "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    for headers, status in (({"if_none_match": f'"x", {etag}'}, 304), ({"if_match": '"x"'}, 412), ({"if_match": f'"x", {etag}'}, 200),
                            ({"if_modified_since": future}, 304), ({"if_modified_since": past}, 200), ({"if_modified_since": "?"}, 200),
                            ({"if_unmodified_since": past}, 412), ({"if_unmodified_since": past, "if_match": etag}, 200)):  # fmt: skip
        assert call("GET", "/bkt/k", **headers)[0] == status, headers
    for name, value in (("if-match", '"x"'), ("if-none-match", etag), ("if-modified-since", future), ("if-unmodified-since", past)):
        answer = call("PUT", "/bkt/c", x_amz_copy_source="/bkt/k", **{f"x-amz-copy-source-{name}": value})
        assert is_error(answer, 412, "PreconditionFailed")


# --- numbers


@given(st.text() | st.integers(0, 10**30).map(str), st.integers(0, 10**20))
def test_digits_are_read_or_refused(text: str, most: int) -> None:
    found = read_digits(text, most)
    plain = text.isascii() and text.isdigit() and len(text) < 4000
    assert found == (int(text) if plain and int(text) <= most else None)


@pytest.mark.parametrize("number", ["%C2%B2", "9" * 5000, "%D9%A3", "-1", "1_0", "%2B1", ""])
def test_what_is_no_number_is_told(call: Ask, number: str) -> None:
    upload = begin(call)
    assert is_error(call("GET", "/bkt", b"", f"max-keys={number}"), 400, "InvalidArgument")
    assert is_error(call("PUT", "/bkt/k", b"x", f"uploadId={upload}&partNumber={number}"), 400, "InvalidArgument")
    text = number.replace("%C2%B2", "\u00b2").replace("%D9%A3", "\u0663").replace("%2B", "+")
    assert is_error(complete(call, upload, [(text, '"0"', "")]), 400, "InvalidArgument")
    assert call("GET", "/bkt/k", b"", range=f"bytes={text.encode().decode('latin-1')}-")[0] == 404
    assert is_error(call("GET", "/bkt/k", b"", f"AWSAccessKeyId=A&Signature=x&Expires={number}"), 400, "AuthorizationHeaderMalformed")


# --- promises


@pytest.mark.parametrize("headers", [
    {"x-amz-server-side-encryption": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms:dsse"},
    {"x-amz-server-side-encryption": "AES256", "x-amz-server-side-encryption-customer-algorithm": "AES256"},
    {"x-amz-copy-source-server-side-encryption-customer-key": "x"}, {"x-amz-object-lock-mode": "COMPLIANCE"},
])  # fmt: skip
def test_what_would_not_be_done_is_refused(call: Ask, headers: dict[str, str]) -> None:
    for method, query in (("PUT", ""), ("POST", "uploads")):
        assert is_error(call(method, "/bkt/k", b"", query, **headers), 501, "NotImplemented")
    assert call("GET", "/bkt/k")[0] == 404


def test_aes256_is_taken_and_not_confirmed(call: Ask) -> None:
    status, headers, _ = call("PUT", "/bkt/k", b"one", **{"x-amz-server-side-encryption": "AES256", "x-amz-acl": "private"})
    assert (status, "x-amz-server-side-encryption" in headers) == (200, False)
    assert is_error(call("PUT", "/bkt/k", b"two", **{"x-amz-acl": "public-read"}), 400, "AccessControlListNotSupported")


def test_an_error_tells_nothing_of_the_server(call: Ask, tmp_path: Path) -> None:
    for method, path, query in (("GET", "/nobucket/k", ""), ("GET", "/nobucket", "list-type=2"), ("DELETE", "/nobucket", ""),
                                ("PUT", "/nobucket/k", ""), ("POST", "/nobucket/k", "uploads")):  # fmt: skip
        answer = call(method, path, b"", query)
        assert is_error(answer, 404, "NoSuchBucket")
        assert str(tmp_path).encode() not in answer[2]


# --- URLs of version 2


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[tuple[Ask, Services]]:
    """Calls of a server that asks for a signature."""
    yield from gateway_of(tmp_path, anonymous=False)


def client_of(services: Services, hours: float | None = None, **config: str) -> tuple[object, str]:
    made = Registry(services.store, services.master).create("000000000000", "test", ROLES["full"], hours)
    client = boto3.client(
        "s3", endpoint_url="http://127.0.0.1", region_name="us-east-1", aws_access_key_id=made["access_key_id"],
        aws_secret_access_key=made["secret_access_key"], aws_session_token=made.get("session_token"), config=Config(**config),
    )  # fmt: skip
    return client, made["access_key_id"]


@pytest.mark.parametrize("hours", [None, 1.0])
def test_urls_that_clients_presign_for_an_endpoint_of_their_own(signed: tuple[Ask, Services], hours: float | None) -> None:
    call, services = signed
    client, key = client_of(services, hours)
    services.objects.create_bucket("bkt", "000000000000")  # type: ignore[attr-defined]

    def use(action: str, method: str, body: bytes = b"", changed: str = "", expires: int = 60, **params: object) -> tuple[int, dict[str, str], bytes]:
        where = {"Bucket": "bkt", "Key": "a b+c", **params}
        url = urlsplit(client.generate_presigned_url(action, Params=where, ExpiresIn=expires))  # type: ignore[attr-defined]
        assert "AWSAccessKeyId" in url.query
        return call(method, url.path + changed, body, url.query)

    assert use("put_object", "PUT", b"one", ContentType="image/png", Metadata={"part": "7"})[0] == 200
    status, headers, body = use("get_object", "GET", ResponseContentType="text/plain")
    assert (status, body, headers["content-type"], headers["x-amz-meta-part"]) == (200, b"one", "image/png", "7")
    assert is_error(use("get_object", "GET", changed="x"), 403, "SignatureDoesNotMatch")
    assert is_error(use("get_object", "PUT", b"two"), 403, "SignatureDoesNotMatch")
    assert is_error(use("get_object", "GET", expires=-5), 403, "AccessDenied")
    assert is_error(use("get_object", "GET", expires=8 * 24 * 3600), 403, "AccessDenied")
    assert is_error(use("put_object", "PUT", b"two", ServerSideEncryption="aws:kms"), 501, "NotImplemented")
    assert use("upload_part", "PUT", b"x", UploadId="0" * 32, PartNumber=1)[0] == 404
    Registry(services.store, services.master).delete(key)
    assert is_error(use("get_object", "GET"), 403, "InvalidAccessKeyId")


def test_a_url_of_version_2_is_whole_or_refused(signed: tuple[Ask, Services]) -> None:
    call, services = signed
    _, key = client_of(services)
    soon = int(time.time()) + 60
    for query, status in ((f"AWSAccessKeyId={key}&Expires={soon}", 400), (f"AWSAccessKeyId={key}&Signature=x", 400),
                          (f"AWSAccessKeyId={key}&Signature=x&Expires=%C2%B2", 400), (f"AWSAccessKeyId={key}&Signature=%FF&Expires={soon}", 403),
                          (f"AWSAccessKeyId={key}&Signature=&Expires={soon}", 403)):  # fmt: skip
        assert call("GET", "/bkt/k", b"", query)[0] == status, query
    with mock.patch("linewatch.control_plane.s3_api.handler.identify_url", side_effect=AssertionError):
        assert call("GET", "/2020-11-20/projects", b"", f"AWSAccessKeyId={key}&Signature=x&Expires={soon}")[0] == 403
