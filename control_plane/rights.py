"""Rights to what an operation reads and writes in buckets, asked with the caller's policy when he calls and when the job runs.

A job runs as the server, and later: rights may have been withdrawn meanwhile, and a bucket may have got another owner. So the
job names the access key that asked for it. A key that was deleted may do nothing; one that has expired may still what it could.
"""

from collections.abc import Iterable
from typing import Any

from linewatch.control_plane.access.policy import Permission
from linewatch.control_plane.authentication import ANONYMOUS, anonymous, identity_of, look_up
from linewatch.control_plane.errors import AccessDeniedError
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.objects import is_foreign, split_address
from linewatch.control_plane.services import Call, Services

_SHOWN, _SHOWN_CHARS = 3, 200
CALLER = "caller"
"""Key of a job's spec: the access key that asked for it."""


def caller_of(services: Services, spec: dict[str, Any]) -> Call:
    """Who asked for a job, with the policy of now.

    Raises:
        AccessDeniedError: the key was deleted.
    """
    key, settings = spec.get(CALLER, ""), services.settings
    if key == ANONYMOUS and settings.anonymous:
        return Call(services, Scope(settings.account, settings.region), anonymous(settings.account))
    row = look_up(services.store, key)
    if row is None:
        raise AccessDeniedError(f"the access key {key} that asked for this is not there any more; ask again with another")
    return Call(services, Scope(row.account, settings.region), identity_of(row))


def require_readable(call: Call, addresses: Iterable[str]) -> None:
    """Refuse pictures and masks that the caller may not read.

    Args:
        call: of the caller.
        addresses: s3://BUCKET/KEY, any number.

    Raises:
        AccessDeniedError: how many, and which the first ones are.
    """
    permission, objects = Permission(call.identity.policy, "s3:GetObject"), call.services.objects
    foreign: dict[str, bool] = {}
    refused, total = [], 0
    for address in addresses:
        total += 1
        bucket, key = split_address(address)
        if bucket not in foreign:
            foreign[bucket] = is_foreign(objects, bucket, call.scope.account)
        if foreign[bucket] or not permission.allows(f"arn:aws:s3:::{bucket}/{key}"):
            refused.append(address)
    if refused:
        shown = ", ".join(address[:_SHOWN_CHARS] for address in refused[:_SHOWN])
        raise AccessDeniedError(
            f"access key {call.identity.access_key} ({call.identity.name}) is not allowed to perform s3:GetObject on {len(refused)} of "
            f"{total} pictures and masks: {shown}"
        )


def require_writable(call: Call, bucket: str, keys: Iterable[str], prefix: str) -> None:
    """Refuse a place for results that the caller may not write to.

    Args:
        call: of the caller.
        bucket: of the results.
        keys: that are written.
        prefix: below which others are.

    Raises:
        AccessDeniedError: names an object, or the prefix.
    """
    permission, base = Permission(call.identity.policy, "s3:PutObject"), f"arn:aws:s3:::{bucket}/"
    refused = [base + key for key in keys if not permission.allows(base + key)]
    if not permission.allows_below(base + prefix):
        refused.append(f"{base}{prefix}*")
    if refused:
        raise AccessDeniedError(
            f"access key {call.identity.access_key} ({call.identity.name}) is not allowed to perform s3:PutObject on {refused[0]}; "
            "its policy says what it may do"
        )
    call.require_bucket(bucket)
