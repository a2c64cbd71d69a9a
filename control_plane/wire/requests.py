"""From a request's bytes to parameters that keep every constraint of the service model.

Values come from the path, the query, headers and the body, as each member's location says. Unknown members are ignored,
null is absent, as AWS has it. All broken constraints are told in one message.
"""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import regex
from botocore.model import ListShape, Shape, StructureShape

from linewatch.control_plane.errors import SerializationError, ValidationError
from linewatch.control_plane.wire.service_model import Operation

Params = dict[str, Any]
_MOST_SHOWN = 5
_SHOWN_CHARS = 200
_MAX_TIMESTAMP = 253402300799
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of an HTTP request that hold parameters.

    Attributes:
        labels: of the path, decoded.
        query: decoded names and values, in order.
        headers: by lower-case name.
        body: as it came.
    """

    labels: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes


def parse_rest(operation: Operation, source: Source) -> Params:
    """Parameters of a restJson1 call.

    Raises:
        SerializationError: the body is not a JSON object, or a value has the wrong type.
        ValidationError: a value breaks a constraint of its shape.
    """
    shape = operation.input_shape
    payload = shape.serialization.get("payload")
    body = {} if payload else _json_object(source.body)
    found: Params = {}
    for name, member in shape.members.items():
        location, key = member.serialization.get("location"), member.serialization.get("name", name)
        if name == payload:
            found[name] = source.body
        elif location == "uri":
            found[name] = source.labels[key]
        elif location == "header":
            text = source.headers.get(key.lower())
            if text is not None:
                found[name] = _from_text(member, text, name)
        elif location == "querystring":
            values = [v for k, v in source.query if k == key]
            if values and isinstance(member, ListShape):
                found[name] = [_from_text(member.member, v, name) for v in values]
            elif values:
                found[name] = _from_text(member, values[0], name)
        elif body.get(key) is not None:
            found[name] = _from_json(member, body[key], name)
    check(shape, found)
    return found


def parse_json(operation: Operation, body: bytes) -> Params:
    """Parameters of an awsJson1.1 call; raises as `parse_rest` does."""
    found = _from_json(operation.input_shape, _json_object(body), "")
    assert isinstance(found, dict)
    check(operation.input_shape, found)
    return found


def _json_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise SerializationError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SerializationError(f"the body is {_kind(value)}; expected a JSON object")
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _from_json(shape: Shape, value: object, where: str) -> Any:
    """A JSON value as the shape's type.

    Raises:
        SerializationError: the value, or one in it, is not of the shape's type.
    """
    match shape.type_name, value:
        case "structure", dict():
            return {
                name: _from_json(member, value[key], f"{where}.{name}".lstrip("."))
                for name, member in shape.members.items()
                if value.get(key := member.serialization.get("name", name)) is not None
            }
        case "list", list():
            return [_from_json(shape.member, v, f"{where}[{i}]") for i, v in enumerate(value) if v is not None]
        case "string", str():
            return value
        case "boolean", bool():
            return value
        case "integer" | "long", int() if not isinstance(value, bool):
            return value
        case "integer" | "long", float() if value.is_integer():
            return int(value)
        case "float" | "double", int() | float() if not isinstance(value, bool):
            return float(value)
        case "timestamp", int() | float() if not isinstance(value, bool):
            return _epoch(float(value), where)
        case "timestamp", str():
            return _timestamp(value, where)
        case "blob", str():
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise SerializationError(f"{where} is not base64") from None
    raise SerializationError(f"{where} is {_kind(value)}; expected a {shape.type_name}")


def _from_text(shape: Shape, text: str, where: str) -> Any:
    """Text of a header or of the query as the shape's type.

    Raises:
        SerializationError: the text is not of the shape's type.
    """
    match shape.type_name:
        case "boolean":
            if text not in ("true", "false"):
                raise SerializationError(f"{where} is {text[:_SHOWN_CHARS]!r}; expected true or false")
            return text == "true"
        case "integer":
            try:
                return int(text)
            except ValueError:
                raise SerializationError(f"{where} is {text[:_SHOWN_CHARS]!r}; expected an integer") from None
        case "timestamp":
            return _timestamp(text, where)
        case _:
            return text


def _timestamp(text: str, where: str) -> float:
    """ISO 8601, with or without a fraction, or epoch seconds; as epoch seconds.

    Raises:
        SerializationError: the text is no such time, or one outside the years 1 to 9999.
    """
    try:
        return _epoch(float(text), where)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise SerializationError(f"{where} is {text[:_SHOWN_CHARS]!r}; expected a time like 2026-01-31T12:00:00Z") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _epoch(value: float, where: str) -> float:
    if not math.isfinite(value) or abs(value) > _MAX_TIMESTAMP:
        raise SerializationError(f"{where} is not a time between the years 1 and 9999")
    return value


# --- constraints


def check(shape: Shape, value: object) -> None:
    """Check a value against every constraint of its shape.

    Raises:
        ValidationError: lists what is broken.
    """
    broken = list(_broken(shape, value, ""))
    if broken:
        noun = "validation error" if len(broken) == 1 else "validation errors"
        shown = "; ".join(broken[:_MOST_SHOWN])
        raise ValidationError(f"{len(broken)} {noun} detected: {shown}")


def _broken(shape: Shape, value: Any, where: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        for name in shape.required_members:
            if name not in value:
                yield f"Value at '{_join(where, name)}' failed to satisfy constraint: Member must not be null"
        for name, member in shape.members.items():
            if name in value:
                yield from _broken(member, value[name], _join(where, name))
        return
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if isinstance(value, str | bytes | list):
        size, noun = len(value), "length"
    else:
        size, noun = value, "value"
    if low is not None and size < low:
        yield _say(value, where, f"Member must have {noun} greater than or equal to {low}")
    if high is not None and size > high:
        yield _say(value, where, f"Member must have {noun} less than or equal to {high}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _broken(shape.member, item, f"{where}.{i + 1}.member")
    elif isinstance(value, str):
        yield from _broken_text(shape, value, where)


def _broken_text(shape: Shape, value: str, where: str) -> Iterator[str]:
    choices, pattern = getattr(shape, "enum", None), shape.metadata.get("pattern")
    if choices and value not in choices:
        yield _say(value, where, f"Member must satisfy enum value set: [{', '.join(choices)}]")
    elif pattern and not _compiled(pattern).fullmatch(value):
        yield _say(value, where, f"Member must satisfy regular expression pattern: {pattern}")


@lru_cache(maxsize=200)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    """The model's patterns name Unicode classes, which `re` does not know."""
    return regex.compile(pattern)


def _join(where: str, name: str) -> str:
    return f"{where}.{name[0].lower()}{name[1:]}".lstrip(".")


def _say(value: object, where: str, rule: str) -> str:
    text = "..." if isinstance(value, bytes | list) else str(value)[:_SHOWN_CHARS]
    return f"Value '{text}' at '{where}' failed to satisfy constraint: {rule}"
