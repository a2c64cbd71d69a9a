"""Pages of lists: the same for every list call."""

from typing import Any

from sqlalchemy import ColumnElement, Select
from sqlalchemy.engine import Connection

from linewatch.control_plane.services import Call
from linewatch.control_plane.store.schema import Row
from linewatch.control_plane.wire.requests import Params

PAGE = 100
"""Items of a page where the caller names no number."""


def read_page(
    call: Call, connection: Connection, params: Params, listing: object, query: Select[Any], key: ColumnElement[Any],
    newest_first: bool = False,
) -> tuple[list[Row], str | None]:  # fmt: skip
    """Rows of one page, and the token of the next; None at the end.

    Args:
        call: whose page tokens are used.
        connection: to read with.
        params: of the call: MaxResults and NextToken.
        listing: which list with which filters; see `PageTokens`.
        query: of the whole list.
        key: the column that orders it; no two rows share a value.
        newest_first: largest key first.

    Raises:
        ValidationError: not a token of this list.
    """
    tokens, size = call.services.tokens, params.get("MaxResults", PAGE)
    last = tokens.open(listing, params.get("NextToken"))
    if last is not None:
        query = query.where(key < last if newest_first else key > last)
    rows = list(connection.execute(query.order_by(key.desc() if newest_first else key).limit(size + 1)).all())
    token = tokens.seal(listing, rows[size - 1]._mapping[key]) if len(rows) > size else None
    return rows[:size], token
