"""Page tokens: where a list goes on, sealed so that nobody can make one up. They survive a restart.

A token holds the list's name, its filters, and the key of the last item: the cost of a page does not grow with its number.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Any

import msgspec

from linewatch.control_plane.errors import ValidationError

_TAG_BYTES = 16


class PageTokens:
    """Makes and reads tokens with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, listing: object, last: object) -> str:
        """A token for the page after `last`.

        Args:
            listing: which list with which filters; another listing's token is refused.
            last: key of the last item of this page, as JSON can say it.
        """
        data = msgspec.json.encode(last)
        return base64.b64encode(self._tag(listing, data) + data).decode()

    def open(self, listing: object, token: str | None) -> Any:
        """What was sealed; None without a token.

        Raises:
            ValidationError: not a token of this listing.
        """
        if not token:
            return None
        try:
            raw = base64.b64decode(token, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        tag, data = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(listing, data)):
            raise ValidationError("NextToken is not one that this list gave with these filters; begin again without it")
        return msgspec.json.decode(data)

    def _tag(self, listing: object, data: bytes) -> bytes:
        return hmac.new(self._key, msgspec.json.encode(listing) + b"\n" + data, hashlib.sha256).digest()[:_TAG_BYTES]
