"""The XML that S3 speaks: a few answers, and the three bodies that clients send. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from linewatch.control_plane.objects.directory import ListedObject
from linewatch.control_plane.s3_api.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
Tree = Sequence[tuple[str, "str | int | bool | Tree"]]
"""Elements in order: name, and text or further elements."""


def document(root: str, tree: Tree) -> bytes:
    """An XML document."""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<{root} xmlns="{NAMESPACE}">{_elements(tree)}</{root}>'.encode(errors="xmlcharrefreplace")


def _elements(tree: Tree) -> str:
    parts = []
    for name, value in tree:
        match value:
            case bool():
                text = str(value).lower()
            case str() | int():
                text = escape(str(value))
            case _:
                text = _elements(value)
        parts.append(f"<{name}>{text}</{name}>")
    return "".join(parts)


def iso(seconds: float) -> str:
    """A time as S3 writes it in XML."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def http_date(seconds: float) -> str:
    """A time as headers have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def encode_key(key: str, encoding: str | None) -> str:
    """A key in a listing, percent-encoded where the client asked for that."""
    return quote(key, safe="/-_.~") if encoding == "url" else key


def contents(entries: Iterable[ListedObject], encoding: str | None) -> Tree:
    """The objects of a listing."""
    return [
        ("Contents", [
            ("Key", encode_key(e.key, encoding)), ("LastModified", iso(e.modified)), ("ETag", f'"{e.etag}"'), ("Size", e.size),
            ("StorageClass", "STANDARD"),
        ])
        for e in entries
    ]  # fmt: skip


def parse(body: bytes, root: str) -> ET.Element:
    """Read a client's XML, without document types: entities could make it grow.

    Raises:
        S3Error: malformed, or another document.
    """
    malformed = S3Error("MalformedXML", 400, f"the body is not a {root} document")
    try:
        text = body.decode()
        if "<!DOCTYPE" in text:
            raise malformed
        element = ET.fromstring(text)  # noqa: S314
    except (UnicodeDecodeError, ET.ParseError):
        raise malformed from None
    if element.tag.rpartition("}")[2] != root:
        raise malformed
    return element


def children(element: ET.Element, name: str) -> list[ET.Element]:
    """Children of a name, whatever namespace the client wrote."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def text_of(element: ET.Element, name: str) -> str | None:
    """Text of the first child of a name."""
    found = children(element, name)
    return (found[0].text or "") if found else None
