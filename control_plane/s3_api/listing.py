"""ListObjects and ListObjectsV2: a page of keys, with common prefixes. Tokens are the last key itself, encoded."""

import base64
import binascii
from collections.abc import Mapping

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.objects.directory import DirectoryObjects, ListedObject
from linewatch.control_plane.objects.keys import LAST
from linewatch.control_plane.s3_api import documents as xml
from linewatch.control_plane.s3_api.errors import S3Error

PAGE = 1000
_MOST_KEYS = 2**31 - 1


def list_objects(objects: DirectoryObjects, bucket: str, query: Mapping[str, str]) -> bytes:
    """The answer to a listing.

    Args:
        objects: the buckets.
        bucket: which one.
        query: of the call: list-type, prefix, delimiter, max-keys, continuation-token, start-after or marker.

    Raises:
        S3Error: a malformed token or number. NoSuchBucketError
    """
    second = query.get("list-type") == "2"
    prefix, delimiter, encoding = query.get("prefix", ""), query.get("delimiter", ""), query.get("encoding-type")
    text = query.get("max-keys", str(PAGE))
    stated = read_digits(text, _MOST_KEYS)
    if stated is None:
        raise S3Error("InvalidArgument", 400, f"max-keys is {text[:40]!r}; expected a number from 0 to {_MOST_KEYS}")
    most = min(stated, PAGE)
    after = query.get("start-after" if second else "marker", "")
    if second and "continuation-token" in query:
        after = _decode(query["continuation-token"])
    found, prefixes, last, truncated = _page(objects, bucket, prefix, delimiter, after, most)
    head: list[tuple[str, xml.Tree | str | int | bool]] = [
        ("Name", bucket), ("Prefix", xml.encode_key(prefix, encoding)), ("MaxKeys", most), ("IsTruncated", truncated),
    ]  # fmt: skip
    if delimiter:
        head.append(("Delimiter", xml.encode_key(delimiter, encoding)))
    if encoding:
        head.append(("EncodingType", encoding))
    if second:
        head.append(("KeyCount", len(found) + len(prefixes)))
        if "continuation-token" in query:
            head.append(("ContinuationToken", query["continuation-token"]))
        if "start-after" in query:
            head.append(("StartAfter", xml.encode_key(query["start-after"], encoding)))
        if truncated:
            head.append(("NextContinuationToken", base64.urlsafe_b64encode(last.encode()).decode()))
    else:
        head.append(("Marker", xml.encode_key(query.get("marker", ""), encoding)))
        if truncated:
            head.append(("NextMarker", xml.encode_key(last, encoding)))
    common = [("CommonPrefixes", [("Prefix", xml.encode_key(p, encoding))]) for p in prefixes]
    return xml.document("ListBucketResult", [*head, *xml.contents(found, encoding), *common])


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", 400, "the continuation token is not one that a listing gave") from None


def _page(
    objects: DirectoryObjects, bucket: str, prefix: str, delimiter: str, after: str, most: int
) -> tuple[list[ListedObject], list[str], str, bool]:
    """Objects, common prefixes, the last key or prefix of the page, and whether there is more."""
    found: list[ListedObject] = []
    prefixes: list[str] = []
    last = after
    # Behind a common prefix that ended a page are keys that it stands for: they are not listed again.
    keys = objects.keys(bucket, prefix, after + LAST if delimiter and after.endswith(delimiter) else after)
    while (key := next(keys, None)) is not None:
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = objects.entry(bucket, key) if cut < 0 else None
        if cut < 0 and entry is None:
            continue
        if len(found) + len(prefixes) >= most:
            return found, prefixes, last, most > 0
        if entry is not None:
            found.append(entry)
            last = key
        else:
            last = key[: cut + len(delimiter)]
            prefixes.append(last)
            keys = objects.keys(bucket, prefix, last + LAST)
    return found, prefixes, last, False
