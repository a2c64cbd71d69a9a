"""AWS Signature Version 4: verification of signed headers, presigned URLs and signed chunks. Pure: the clock is an argument.

The rules, in the order in which they are checked:

1. The algorithm is AWS4-HMAC-SHA256, and every part of the signature is there and well formed.
2. The host header is signed, and so is the date.
3. The date is within `SKEW_S` of ours; a presigned request is within its own time, at most seven days.
4. The canonical request is made of what was received, not signed again by a client's library: such libraries leave out
   headers (user-agent, expect) that other clients sign.
5. For every service but S3 the path is quoted once more, without dot segments and empty ones (RFC 3986, 5.2.4).
6. The body's SHA-256 is that of the signed hash, unless the caller declared the payload unsigned.
7. Signatures are compared in constant time.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.errors import (
    ExpiredRequestError,
    IncompleteSignatureError,
    InvalidSignatureError,
    MissingTokenError,
    SkewedClockError,
)

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_S = 300
LONGEST_PRESIGNED_S = 7 * 24 * 3600
UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_SCOPE = re.compile(r"([A-Za-z0-9]{1,128})/([0-9]{8})/([a-z0-9-]{1,40})/([a-z0-9-]{1,40})/aws4_request")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RawRequest:
    """The parts of a request that are signed, as they were received.

    Attributes:
        method: GET, POST ...
        path: raw, with its escapes.
        query: raw, without the question mark.
        headers: values by lower-case name; several of one name joined by commas.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ParsedSignature:
    """What a request says of its signature. Nothing of it is verified yet.

    Attributes:
        access_key: id of the credential.
        day: of the credential's scope, YYYYMMDD.
        region: any is accepted, and names the region of the resources.
        service: signing name.
        signed_headers: lower-case names, in order.
        digest: the signature itself, 64 hexadecimal digits.
        timestamp: YYYYMMDDTHHMMSSZ.
        expires: seconds that a presigned request is good for; None for signed headers.
        session_token: of temporary credentials.
    """

    access_key: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    digest: str
    timestamp: str
    expires: int | None
    session_token: str | None

    @property
    def scope(self) -> str:
        """The credential's scope."""
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def parse_signature(request: RawRequest) -> ParsedSignature:
    """Read the signature of a request.

    Raises:
        MissingTokenError: the request is not signed.
        IncompleteSignatureError: a part of the signature is missing or malformed.
    """
    header = request.headers.get("authorization")
    if header is not None:
        return _parse_header(header, request)
    pairs = dict(query_pairs(request.query))
    if "X-Amz-Signature" in pairs or "X-Amz-Algorithm" in pairs:
        return _parse_query(pairs, request)
    raise MissingTokenError(
        "the request is not signed; configure an access key made by `linewatch credentials create` in your AWS SDK or CLI"
    )


def _parse_header(header: str, request: RawRequest) -> ParsedSignature:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignatureError(f"the Authorization header begins with {algorithm[:40]!r}; expected {ALGORITHM}")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    missing = {"Credential", "SignedHeaders", "Signature"} - set(parts)
    if missing:
        raise IncompleteSignatureError(f"the Authorization header lacks {', '.join(sorted(missing))}")
    timestamp = request.headers.get("x-amz-date") or _from_http_date(request.headers.get("date"))
    if not timestamp:
        raise IncompleteSignatureError("the request has neither an X-Amz-Date nor a Date header")
    return _parse_parts(
        parts["Credential"], parts["SignedHeaders"], parts["Signature"], timestamp, None,
        request.headers.get("x-amz-security-token"),
    )  # fmt: skip


def _parse_query(pairs: Mapping[str, str], request: RawRequest) -> ParsedSignature:
    names = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
    missing = [name for name in names if name not in pairs]
    if missing:
        raise IncompleteSignatureError(f"the presigned request lacks {', '.join(missing)}")
    if pairs["X-Amz-Algorithm"] != ALGORITHM:
        raise IncompleteSignatureError(f"X-Amz-Algorithm is {pairs['X-Amz-Algorithm'][:40]!r}; expected {ALGORITHM}")
    text = pairs["X-Amz-Expires"]
    expires = read_digits(text, LONGEST_PRESIGNED_S)
    if not expires:
        raise IncompleteSignatureError(f"X-Amz-Expires is {text[:40]!r}; expected 1 to {LONGEST_PRESIGNED_S} seconds")
    token = pairs.get("X-Amz-Security-Token") or request.headers.get("x-amz-security-token")
    return _parse_parts(
        pairs["X-Amz-Credential"], pairs["X-Amz-SignedHeaders"], pairs["X-Amz-Signature"], pairs["X-Amz-Date"], expires, token
    )


def _parse_parts(
    credential: str, headers: str, signature: str, timestamp: str, expires: int | None, token: str | None
) -> ParsedSignature:  # fmt: skip
    scope = _SCOPE.fullmatch(credential)
    if not scope:
        raise IncompleteSignatureError(
            f"the credential {credential[:200]!r} is not of the form KEY/YYYYMMDD/REGION/SERVICE/aws4_request"
        )
    if not _SIGNATURE.fullmatch(signature):
        raise IncompleteSignatureError("the signature is not 64 hexadecimal digits")
    signed = tuple(headers.lower().split(";"))
    if "host" not in signed:
        raise IncompleteSignatureError("the host header is not signed")
    if not timestamp.startswith(scope[2]):
        raise InvalidSignatureError(f"the date {timestamp[:40]!r} is not of the day of the credential's scope, {scope[2]}")
    return ParsedSignature(scope[1], scope[2], scope[3], scope[4], signed, signature, timestamp, expires, token)


def _from_http_date(text: str | None) -> str | None:
    if not text:
        return None
    if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
        return text
    try:
        when = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return when.strftime("%Y%m%dT%H%M%SZ")


def check_time(signature: ParsedSignature, now: float) -> None:
    """Refuse a request that is too old or from the future.

    Args:
        signature: of the request.
        now: epoch seconds.

    Raises:
        IncompleteSignatureError: the date is not of the form YYYYMMDDTHHMMSSZ.
        SkewedClockError: signed too long ago or in the future, on which SDKs correct their clock.
        ExpiredRequestError: a presigned request after its time.
    """
    try:
        signed = datetime.strptime(signature.timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise IncompleteSignatureError(
            f"the date {signature.timestamp[:40]!r} is not of the form YYYYMMDDTHHMMSSZ"
        ) from None
    ours = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    if signed > now + SKEW_S:
        raise SkewedClockError(
            f"Signature not yet current: {signature.timestamp} is still later than {ours} ({SKEW_S // 60} min later)"
        )
    if signature.expires is None and signed < now - SKEW_S:
        raise SkewedClockError(
            f"Signature expired: {signature.timestamp} is now earlier than {ours} ({SKEW_S // 60} min earlier)"
        )
    if signature.expires is not None and now > signed + signature.expires:
        raise ExpiredRequestError(f"the presigned request was good for {signature.expires} s from {signature.timestamp}")


def declared_hash(request: RawRequest, signature: ParsedSignature) -> str | None:
    """The payload's hash as the request declares it, `UNSIGNED-PAYLOAD` or a streaming marker; None: the body is to be hashed."""
    declared = request.headers.get("x-amz-content-sha256")
    if declared is None and signature.expires is not None and signature.service == "s3":
        return UNSIGNED
    return declared


def verify(request: RawRequest, signature: ParsedSignature, secret: str, payload_hash: str) -> bytes:
    """Check the signature; returns the signing key, which signed chunks need.

    Args:
        request: as it was received.
        signature: its signature.
        secret: of the access key.
        payload_hash: what the canonical request names: the body's SHA-256, or what was declared.

    Raises:
        InvalidSignatureError: another signature.
    """
    key = signing_key(secret, signature)
    text = "\n".join([ALGORITHM, signature.timestamp, signature.scope, _sha256(_canonical(request, signature, payload_hash))])
    if not hmac.compare_digest(_hmac_hex(key, text), signature.digest):
        raise InvalidSignatureError(
            "The request signature we calculated does not match the signature you provided. Check the secret access key; a "
            "proxy in between must keep the Host header and the path as they are"
        )
    return key


def signing_key(secret: str, signature: ParsedSignature) -> bytes:
    """The key of a day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (signature.day, signature.region, signature.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def chunk_signature(key: bytes, signature: ParsedSignature, previous: str, data: bytes) -> str:
    """Signature of a chunk of a STREAMING-AWS4-HMAC-SHA256-PAYLOAD body; `previous` is the seed's or the last chunk's.

    Args:
        key: signing key, as `verify` returns it.
        signature: of the request.
        previous: signature of the chunk before; for the first chunk that of the request.
        data: of the chunk.
    """
    text = "\n".join(
        [f"{ALGORITHM}-PAYLOAD", signature.timestamp, signature.scope, previous, EMPTY_SHA256, hashlib.sha256(data).hexdigest()]
    )
    return _hmac_hex(key, text)


def trailer_signature(key: bytes, signature: ParsedSignature, previous: str, digest: str) -> str:
    """Signature of what follows the last signed chunk; `digest` is the SHA-256 of its lines, NAME:VALUE, each with its end.

    Args:
        key: signing key, as `verify` returns it.
        signature: of the request.
        previous: signature of the last chunk.
        digest: hexadecimal SHA-256 of the trailers' lines, NAME:VALUE, each with its end.
    """
    return _hmac_hex(key, "\n".join([f"{ALGORITHM}-TRAILER", signature.timestamp, signature.scope, previous, digest]))


def _canonical(request: RawRequest, signature: ParsedSignature, payload_hash: str) -> str:
    path = request.path if signature.service == "s3" else quote(_normalized(request.path), safe="/-_.~")
    pairs = [(quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query_pairs(request.query) if k != "X-Amz-Signature"]
    query = "&".join(f"{k}={v}" for k, v in sorted(pairs))
    headers = "".join(f"{name}:{_trim(request.headers.get(name, ''))}\n" for name in signature.signed_headers)
    return "\n".join([request.method, path or "/", query, headers, ";".join(signature.signed_headers), payload_hash])


def _normalized(path: str) -> str:
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    return "/" + "/".join(names) + ("/" if names and path.endswith("/") else "")


def query_pairs(query: str) -> Sequence[tuple[str, str]]:
    """Names and values of a raw query, decoded. A plus is a plus: clients write spaces as %20."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return [(unquote(k), unquote(v)) for k, _, v in parts]


def _trim(value: str) -> str:
    return " ".join(value.split())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hmac_hex(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
