"""Conditions of a call: headers that name the object which must, or must not, be there. And what is asked for in vain."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from linewatch.control_plane.objects.directory import Precondition
from linewatch.control_plane.s3_api.errors import S3Error

_NONE, _MATCH, _SINCE, _UNTIL = "if-none-match", "if-match", "if-modified-since", "if-unmodified-since"


def write_precondition(headers: Mapping[str, str]) -> Precondition | None:
    """What is asked before an object is put or deleted; None without conditions.

    Raises:
        S3Error: a condition that S3 does not have for writing.
    """
    none, match = headers.get(_NONE), headers.get(_MATCH)
    if none is not None and none.strip() != "*":
        raise S3Error("NotImplemented", 501, f"If-None-Match is {none[:80]!r}; for writing there is '*' only")
    if none is None and match is None:
        return None

    def check(etag: str | None) -> None:
        if none is not None and etag is not None:
            raise S3Error("PreconditionFailed", 412, "there is an object of this key, and If-None-Match is '*'")
        if match is not None and etag is None:
            raise S3Error("NoSuchKey", 404, "there is no object of this key for If-Match to match")
        if match is not None and not _names(match, etag):
            raise S3Error("PreconditionFailed", 412, "the object's ETag is another one than If-Match names")

    return check


def is_unchanged(headers: Mapping[str, str], etag: str, modified: float, prefix: str = "") -> bool:
    """Whether a reader has the object already, as its conditions tell (status 304).

    Args:
        headers: of the call.
        etag: of the object.
        modified: epoch seconds.
        prefix: before the names of the headers, as a copy's source has it.

    Raises:
        S3Error: the object is not the one that the reader wants.
    """
    found = {name: headers.get(prefix + name) for name in (_NONE, _MATCH, _SINCE, _UNTIL)}
    match, until, none, since = found[_MATCH], _date(found[_UNTIL]), found[_NONE], _date(found[_SINCE])
    if match is not None and not _names(match, etag):
        raise S3Error("PreconditionFailed", 412, "the object's ETag is another one")
    if match is None and until is not None and int(modified) > until:
        raise S3Error("PreconditionFailed", 412, "the object was changed since")
    if none is not None:
        return _names(none, etag)
    return since is not None and int(modified) <= since


def _names(text: str, etag: str | None) -> bool:
    """Whether a list of ETags, or '*', has this one."""
    return any(part.strip().removeprefix("W/").strip('"') in ("*", etag) for part in text.split(","))


def _date(text: str | None) -> float | None:
    """Epoch seconds; None for a date that cannot be read, which HTTP ignores."""
    try:
        when = parsedate_to_datetime(text or "")
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def refuse_unsupported_headers(headers: Mapping[str, str]) -> None:
    """Refuse what a client would believe to be done, and is not.

    AES256 says no more than S3's own default, that objects are as safe as the place that they lie in; it is taken, and not
    confirmed.

    Raises:
        S3Error: a header asks for encryption with a key, for a lock, or for an access control list.
    """
    for name, value in headers.items():
        said = value.strip()
        if name.startswith(("x-amz-server-side-encryption-customer-", "x-amz-copy-source-server-side-encryption")):
            raise S3Error("NotImplemented", 501, f"{name}: this server does not encrypt with keys of its clients")
        if name == "x-amz-server-side-encryption" and said != "AES256":
            raise S3Error("NotImplemented", 501, f"{name} is {said[:40]!r}: this server has no such keys; encrypt its disk, and leave it out")
        if name.startswith(("x-amz-object-lock-", "x-amz-bucket-object-lock-")):
            raise S3Error("NotImplemented", 501, f"{name}: this server does not lock objects")
        if name.startswith("x-amz-grant-") or (name == "x-amz-acl" and said not in ("private", "bucket-owner-full-control")):
            raise S3Error("AccessControlListNotSupported", 400, f"{name}: access is by the policies of keys only")
