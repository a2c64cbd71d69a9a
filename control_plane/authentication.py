"""From a request to the identity behind it."""

import hashlib
import hmac
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from linewatch.control_plane.access import sigv2
from linewatch.control_plane.access.credentials import Identity
from linewatch.control_plane.access.policy import ROLES, Policy
from linewatch.control_plane.access.sigv4 import (
    EMPTY_SHA256,
    UNSIGNED,
    ParsedSignature,
    RawRequest,
    check_time,
    declared_hash,
    parse_signature,
    verify,
)
from linewatch.control_plane.errors import ApiError, InvalidSignatureError, UnknownClientError
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.services import Services
from linewatch.control_plane.store.database import Store, now
from linewatch.control_plane.store.schema import credentials

STREAMING = ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who says to call. Verified when `verify_signature` returns.

    Attributes:
        identity: of the credential.
        scope: account, and the region that the signature names.
        signature: the signature; None in the anonymous mode, and for what is verified already.
        secret: of the access key.
    """

    identity: Identity
    scope: Scope
    signature: ParsedSignature | None
    secret: str = ""


def identify(services: Services, request: RawRequest) -> Caller:
    """Find the credential of a request, before its body is read; nothing is verified yet.

    Raises:
        ApiError: not signed, malformed, too old, or an unknown key.
    """
    settings = services.settings
    if settings.anonymous:
        region = settings.region
        with suppress(ApiError):  # any client may call, however it signs
            region = parse_signature(request).region
        return Caller(anonymous(settings.account), Scope(settings.account, region), None)
    signature = parse_signature(request)
    check_time(signature, now())
    identity, secret = find_credential(services, signature.access_key, signature.session_token)
    return Caller(identity, Scope(identity.account, signature.region), signature, secret)


def find_credential(services: Services, access_key: str, session_token: str | None) -> tuple[Identity, str]:
    """The identity behind an access key, and the key's secret; nothing is verified yet.

    Raises:
        UnknownClientError: there is no such key, it has expired, or its session token is another one.
    """
    row = look_up(services.store, access_key)
    if row is None:
        raise UnknownClientError(
            f"the access key {access_key[:128]} is not known here; `linewatch credentials list` shows those that are"
        )
    if row.expires is not None:
        if row.expires < now():
            raise UnknownClientError(f"the temporary access key {access_key} has expired; make another")
        expected = services.master.session_token(row.access_key)
        if not hmac.compare_digest((session_token or "").encode(), expected.encode()):
            raise UnknownClientError("the session token is missing or is not that of the temporary access key")
    return identity_of(row), services.master.secret(row.access_key)


def look_up(store: Store, access_key: str) -> Any | None:
    """The row of an access key, if there is one, expired or not."""
    with store.read() as connection:
        return connection.execute(sa.select(credentials).where(credentials.c.access_key == access_key)).first()


def identity_of(row: Any) -> Identity:
    """Whose an access key is, and what it may do now."""
    return Identity(row.access_key, row.account, msgspec.convert(row.policy, Policy), row.name)


def identify_url(services: Services, request: RawRequest, signature: sigv2.PresignedSignature) -> Caller:
    """Who made a presigned URL of version 2; verified, for its signature covers no body.

    Raises:
        ApiError: after its time, an unknown key, or another signature.
    """
    settings = services.settings
    if settings.anonymous:
        return Caller(anonymous(settings.account), Scope(settings.account, settings.region), None)
    sigv2.check_time(signature, now())
    identity, secret = find_credential(services, signature.access_key, signature.headers.get("x-amz-security-token"))
    sigv2.verify(request, signature, secret)
    return Caller(identity, Scope(identity.account, settings.region), None)


def anonymous(account: str) -> Identity:
    """Whoever calls in the anonymous mode."""
    return Identity(ANONYMOUS, account, ROLES["full"], ANONYMOUS)


def verify_signature_early(caller: Caller, request: RawRequest) -> bool:
    """Check the signature before the body is read, where the headers tell all that is signed; returns whether they do.

    Raises:
        InvalidSignatureError: the signature is another one.
    """
    if caller.signature is None:
        return True
    has_body = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
    if declared_hash(request, caller.signature) is None and has_body:
        return False
    verify_signature(caller, request, None if has_body else EMPTY_SHA256)
    return True


def verify_signature(caller: Caller, request: RawRequest, body_hash: str | None) -> bytes:
    """Check the signature; returns the signing key, which signed chunks need.

    Args:
        caller: as `identify` found.
        request: as it was received.
        body_hash: SHA-256 of the body; None when the body has not been read, which only S3's declared hashes allow.

    Raises:
        InvalidSignatureError: the signature or the body's hash is another one, or the hash of an unread body is not
            declared.
    """
    if caller.signature is None:
        return b""
    declared = declared_hash(request, caller.signature)
    if declared is None:
        if body_hash is None:
            raise InvalidSignatureError("the request does not declare the hash of its payload in X-Amz-Content-SHA256")
        declared = body_hash
    elif body_hash is not None:
        check_body(declared, body_hash)
    return verify(request, caller.signature, caller.secret, declared)


def check_body(declared: str, body_hash: str) -> None:
    """Compare a body with the hash that the request declared.

    Raises:
        InvalidSignatureError: the body's hash is another one.
    """
    if declared not in (UNSIGNED, *STREAMING) and not hmac.compare_digest(declared.lower().encode(), body_hash.encode()):
        raise InvalidSignatureError("the body's SHA-256 is not the one that X-Amz-Content-SHA256 declares")


def sha256(body: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(body).hexdigest()
