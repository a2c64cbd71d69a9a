"""Presigned URLs of Signature Version 2, which boto3 and the AWS CLI still make for S3 endpoints of one's own. Pure.

The signature is the base64 of an HMAC-SHA1 over method, Content-MD5, Content-Type, time of expiry, the x-amz- headers and the
path with those parts of the query that change what is asked for. Clients write the headers into the query, too.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.access.sigv4 import LONGEST_PRESIGNED_S, SKEW_S, RawRequest, query_pairs
from linewatch.control_plane.errors import ExpiredRequestError, IncompleteSignatureError, InvalidSignatureError

NAMES = ("AWSAccessKeyId", "Signature", "Expires")
_STANDARD = ("content-md5", "content-type")
_SUBRESOURCES = frozenset([
    "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "encryption", "inventory", "lifecycle", "location",
    "logging", "metrics", "notification", "object-lock", "partNumber", "policy", "replication", "requestPayment", "restore",
    "select", "select-type", "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions",
    "website", "response-cache-control", "response-content-disposition", "response-content-encoding", "response-content-language",
    "response-content-type", "response-expires",
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class PresignedSignature:
    """What a URL says of its signature. Nothing of it is verified yet.

    Attributes:
        access_key: id of the credential.
        expires: epoch seconds.
        digest: the signature itself, base64.
        headers: that the query has, by lower-case name; a header of the request counts before them.
    """

    access_key: str
    expires: int
    digest: str
    headers: Mapping[str, str]


def parse_signature(request: RawRequest) -> PresignedSignature | None:
    """Read the signature of a URL; None when it has none of version 2.

    Raises:
        IncompleteSignatureError: a part is missing or malformed.
    """
    pairs = dict(query_pairs(request.query))
    if NAMES[0] not in pairs or "authorization" in request.headers:
        return None
    missing = [name for name in NAMES if name not in pairs]
    if missing:
        raise IncompleteSignatureError(f"the presigned request lacks {', '.join(missing)}")
    expires = read_digits(pairs["Expires"], 10**12)
    if expires is None:
        raise IncompleteSignatureError(f"Expires is {pairs['Expires'][:40]!r}; expected epoch seconds")
    headers = {k.lower(): v for k, v in pairs.items() if k.lower().startswith("x-amz-") or k.lower() in _STANDARD}
    return PresignedSignature(pairs["AWSAccessKeyId"], expires, pairs["Signature"], headers)


def check_time(signature: PresignedSignature, now: float) -> None:
    """Refuse a URL after its time, or for longer than Signature Version 4 has it.

    Args:
        signature: of the request.
        now: epoch seconds.

    Raises:
        ExpiredRequestError: the URL's time is over, or ends later than a presigned request of Signature Version 4 can.
    """
    if now > signature.expires:
        raise ExpiredRequestError(f"the presigned request was good until {signature.expires}; it is {int(now)}")
    if signature.expires > now + LONGEST_PRESIGNED_S + SKEW_S:
        raise ExpiredRequestError(f"the presigned request is good for over {LONGEST_PRESIGNED_S} s; sign it for a shorter time")


def verify(request: RawRequest, signature: PresignedSignature, secret: str) -> None:
    """Check the signature.

    Args:
        request: as it was received.
        signature: its signature.
        secret: of the access key.

    Raises:
        InvalidSignatureError: another signature.
    """
    digest = hmac.new(secret.encode(), _text(request, signature).encode(), hashlib.sha1).digest()
    if not hmac.compare_digest(base64.b64encode(digest), signature.digest.encode()):
        raise InvalidSignatureError(
            "The request signature we calculated does not match the signature you provided. Check the secret access key, and "
            "that the request has the method, the path and the Content-Type that were signed"
        )


def _text(request: RawRequest, signature: PresignedSignature) -> str:
    """What is signed."""
    headers = {**signature.headers, **request.headers}
    amz = [f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers) if name.startswith("x-amz-")]
    parts = [part.partition("=") for part in request.query.split("&") if part]
    signed = sorted((unquote(k), f"{unquote(k)}{equals}{unquote(v)}") for k, equals, v in parts if unquote(k) in _SUBRESOURCES)
    resource = request.path + ("?" + "&".join(text for _, text in signed) if signed else "")
    return "\n".join([request.method, *(headers.get(name, "") for name in _STANDARD), str(signature.expires), *amz, resource])
