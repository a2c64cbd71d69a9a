"""Signatures: what botocore signs is accepted, whatever else is refused, and headers that botocore would leave out count."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.control_plane.access.sigv4 import (
    LONGEST_PRESIGNED_S,
    SKEW_S,
    UNSIGNED,
    RawRequest,
    _hmac_hex,
    check_time,
    declared_hash,
    parse_signature,
    signing_key,
    verify,
)
from linewatch.control_plane.errors import (
    AccessDeniedError,
    IncompleteSignatureError,
    InvalidSignatureError,
    MissingTokenError,
)
from linewatch.control_plane.store.database import now

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
PATHS = st.lists(st.text(st.characters(codec="ascii", categories=("L", "N")) | st.sampled_from("-_.~%:"), min_size=1, max_size=8).map(
    lambda t: t.replace("%", "%2F")), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))  # fmt: skip


def sign(
    method: str = "POST", path: str = "/2020-11-20/projects", body: bytes = b"{}", headers: Mapping[str, str] | None = None,
    service: str = "lookoutvision", token: str | None = None,
) -> RawRequest:  # fmt: skip
    request = AWSRequest(method, f"http://127.0.0.1:8700{path}", dict(headers or {}), body)
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    kind(Credentials(KEY, SECRET, token), service, "eu-west-1").add_auth(request)
    return raw_request(request, path)


def raw_request(request: AWSRequest, path: str) -> RawRequest:
    prepared = request.prepare()
    found = {k.lower(): v.decode() if isinstance(v, bytes) else str(v) for k, v in prepared.headers.items()}
    found["host"] = "127.0.0.1:8700"
    raw, _, query = prepared.url.removeprefix("http://127.0.0.1:8700").partition("?")
    return RawRequest(prepared.method, raw if query else path.partition("?")[0], query or path.partition("?")[2], found)


def verify_all(request: RawRequest, body: bytes = b"{}", secret: str = SECRET) -> None:
    signature = parse_signature(request)
    check_time(signature, now())
    verify(request, signature, secret, declared_hash(request, signature) or hashlib.sha256(body).hexdigest())


@given(path=PATHS, body=st.binary(max_size=50), method=st.sampled_from(["GET", "POST", "PATCH", "DELETE"]),
       query=st.dictionaries(st.sampled_from(["nextToken", "a", "b"]), st.sampled_from(["", "x", "a%20b", "%2B%2F%3D"]), max_size=3),
       value=st.text(st.sampled_from("abc  ,;"), max_size=12))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_what_botocore_signs_is_accepted(path: str, body: bytes, method: str, query: dict[str, str], value: str) -> None:
    path += "?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else ""
    request = sign(method, path, body, {"X-Amzn-Client-Token": value})
    verify_all(request, body)
    for changed in (
        RawRequest("PUT", request.path, request.query, request.headers),
        RawRequest(request.method, request.path + "x", request.query, request.headers),
        RawRequest(request.method, request.path, request.query + "&z=1", request.headers),
        RawRequest(request.method, request.path, request.query, {**request.headers, "host": "evil"}),
    ):
        with pytest.raises(InvalidSignatureError):
            verify_all(changed, body)
    with pytest.raises(InvalidSignatureError):
        verify_all(request, body + b"x")
    with pytest.raises(InvalidSignatureError):
        verify_all(request, body, "another secret")


@pytest.mark.parametrize("path", ["/.", "/..", "/a/./b", "/a/../b", "//a//b", "/a/..", "/a/b/", "/a/.", "/../.."])
def test_a_path_is_normalized_as_the_rules_of_signing_say(path: str) -> None:
    verify_all(sign("GET", path, b""), b"")


def test_an_escaped_arn_is_accepted() -> None:
    verify_all(sign("GET", "/2020-11-20/tags/arn%3Aaws%3Alookoutvision%3Aus-east-1%3A1%3Amodel%2Fw1%2F1", b""), b"")


def test_s3_does_not_quote_twice() -> None:
    verify_all(sign("PUT", "/bucket/a%20b%2Bc", b"x", service="s3"), b"x")


def test_headers_that_botocore_leaves_out_count_where_they_are_signed() -> None:
    plain = sign(headers={"User-Agent": "sdk/1"})
    parsed = parse_signature(plain)
    names = ("host", "user-agent", "x-amz-date")
    canonical = "\n".join(["POST", plain.path, "", *(f"{n}:{plain.headers[n]}" for n in names), "", ";".join(names),
                           hashlib.sha256(b"{}").hexdigest()])  # fmt: skip
    text = "\n".join(["AWS4-HMAC-SHA256", parsed.timestamp, parsed.scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = _hmac_hex(signing_key(SECRET, parsed), text)
    header = f"AWS4-HMAC-SHA256 Credential={KEY}/{parsed.scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    verify_all(RawRequest("POST", plain.path, "", {**plain.headers, "authorization": header}))
    with pytest.raises(InvalidSignatureError):
        verify_all(RawRequest("POST", plain.path, "", {**plain.headers, "authorization": header, "user-agent": "other"}))


@pytest.mark.parametrize("kind", [SigV4QueryAuth, S3SigV4QueryAuth])
def test_a_presigned_request_is_accepted_in_its_time(kind: type[SigV4QueryAuth]) -> None:
    service = "s3" if kind is S3SigV4QueryAuth else "lookoutvision"
    request = AWSRequest("GET", "http://127.0.0.1:8700/bucket/key", {"host": "127.0.0.1:8700"}, b"")
    kind(Credentials(KEY, SECRET), service, "us-east-1", expires=60).add_auth(request)
    found = raw_request(request, "/bucket/key")
    signature = parse_signature(found)
    assert (signature.expires, declared_hash(found, signature)) == (60, UNSIGNED if service == "s3" else None)
    verify_all(found, b"")
    with pytest.raises(AccessDeniedError, match="good for 60 s"):
        check_time(signature, now() + 61)
    with pytest.raises(InvalidSignatureError):
        verify_all(RawRequest("GET", "/bucket/other", found.query, found.headers), b"")


@pytest.mark.parametrize("shift", [SKEW_S + 2, -SKEW_S - 2])
def test_a_clock_that_is_off_is_told(shift: int) -> None:
    signature = parse_signature(sign())
    with pytest.raises(InvalidSignatureError, match=r"Signature (expired|not yet current)"):
        check_time(signature, now() + shift)
    check_time(signature, now() + (shift - 60 if shift > 0 else shift + 60))


def test_an_unsigned_request_is_told_what_to_do() -> None:
    with pytest.raises(MissingTokenError, match="linewatch credentials create"):
        parse_signature(RawRequest("GET", "/2020-11-20/projects", "", {}))


GOOD = {"Credential": f"{KEY}/20260101/us-east-1/s3/aws4_request", "SignedHeaders": "host;x-amz-date", "Signature": "0" * 64}


@pytest.mark.parametrize(("changed", "date"), [
    ({"Credential": "x"}, "20260101T000000Z"), ({"Credential": f"{KEY}/2026/us-east-1/s3/aws4_request"}, "20260101T000000Z"),
    ({"SignedHeaders": "x-amz-date"}, "20260101T000000Z"), ({"Signature": "0" * 63}, "20260101T000000Z"),
    ({"Signature": None}, "20260101T000000Z"), ({}, ""), ({"Credential": None}, "20260101T000000Z"),
])  # fmt: skip
def test_a_malformed_header_is_incomplete(changed: dict[str, str | None], date: str) -> None:
    parts = {k: v for k, v in {**GOOD, **changed}.items() if v is not None}
    header = "AWS4-HMAC-SHA256 " + ", ".join(f"{k}={v}" for k, v in parts.items())
    with pytest.raises(IncompleteSignatureError):
        parse_signature(RawRequest("GET", "/", "", {"authorization": header, "x-amz-date": date}))


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(IncompleteSignatureError):
        parse_signature(RawRequest("GET", "/", "", {"authorization": "AWS KEY:signature"}))


def test_a_date_of_another_day_is_refused() -> None:
    header = "AWS4-HMAC-SHA256 " + ", ".join(f"{k}={v}" for k, v in GOOD.items())
    with pytest.raises(InvalidSignatureError):
        parse_signature(RawRequest("GET", "/", "", {"authorization": header, "x-amz-date": "20260102T000000Z"}))


@pytest.mark.parametrize("expires", ["0", str(LONGEST_PRESIGNED_S + 1), "-1", "x", ""])
def test_a_presigned_request_lives_a_week_at_most(expires: str) -> None:
    query = "&".join(["X-Amz-Algorithm=AWS4-HMAC-SHA256", f"X-Amz-Credential={GOOD['Credential']}", "X-Amz-Date=20260101T000000Z",
                      f"X-Amz-Expires={expires}", "X-Amz-SignedHeaders=host", f"X-Amz-Signature={'0' * 64}"])  # fmt: skip
    with pytest.raises(IncompleteSignatureError, match="X-Amz-Expires"):
        parse_signature(RawRequest("GET", "/", query, {}))


@given(st.text(max_size=200), st.text(max_size=100), st.text(max_size=30))
@settings(max_examples=200)
def test_any_header_is_read_or_refused(header: str, query: str, date: str) -> None:
    for text in (header, "AWS4-HMAC-SHA256 " + header, "AWS4-HMAC-SHA256 Credential=" + header):
        with suppress(IncompleteSignatureError, InvalidSignatureError, MissingTokenError):
            check_time(parse_signature(RawRequest("GET", "/", query, {"authorization": text, "x-amz-date": date})), 0.0)
