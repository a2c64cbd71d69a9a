"""Requests made from the service model's shapes: valid ones, and ones that break exactly one constraint."""

from collections.abc import Iterator
from typing import Any

from botocore.model import ListShape, Shape, StringShape, StructureShape
from hypothesis import strategies as st

_TAG_TEXT = st.text(st.sampled_from("abcXYZ019 _.:/=+-@éüß日本"), min_size=1, max_size=20)
_FIXED = {
    "CompilerOptions": st.just('{"mcpu": "core-avx2"}'),
    "ContentType": st.sampled_from(["image/png", "image/jpeg"]),
    "TagArn": st.just("arn:aws:lookoutvision:eu-central-1:111122223333:model/absent/1"),
    "PaginationToken": st.just(""),
    "ExtendedPaginationToken": st.just(""),
    "DatasetArn": st.sampled_from(
        [f"arn:aws:rekognition:eu-central-1:111122223333:project/absent/dataset/{kind}/1" for kind in ("train", "test")]
    ),
}
"""Values that mean something beyond their shape."""


def valid(shape: Shape) -> st.SearchStrategy[Any]:
    """Values that keep every constraint of a shape."""
    if shape.name in _FIXED:
        return _FIXED[shape.name]
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max")
    match shape.type_name:
        case "structure":
            return _structure(shape)
        case "list":
            return st.lists(valid(shape.member), min_size=max(low, 1), max_size=min(high or 3, 3), unique_by=repr)
        case "string":
            return _string(shape, low, high)
        case "integer":
            return st.integers(low, high or low + 5)
        case "boolean":
            return st.booleans()
        case "timestamp":
            return st.datetimes().map(lambda when: when.replace(year=2024))
        case "blob":
            return st.binary(min_size=max(low, 1), max_size=64)
    raise AssertionError(shape.type_name)


def _structure(shape: StructureShape) -> st.SearchStrategy[dict[str, Any]]:
    required = {n: valid(m) for n, m in shape.members.items() if n in shape.required_members}
    optional = {n: valid(m) for n, m in shape.members.items() if n not in shape.required_members}
    return st.fixed_dictionaries(required, optional=optional)


def _string(shape: StringShape, low: int, high: int | None) -> st.SearchStrategy[str]:
    if shape.enum:
        return st.sampled_from(shape.enum)
    pattern = shape.metadata.get("pattern")
    if pattern is None:
        return st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=max(low, 1), max_size=min(high or 30, 30))
    if "\\p{" in pattern:
        return _TAG_TEXT
    texts = st.from_regex(f"(?:{pattern.removeprefix('^').removesuffix('$')})", fullmatch=True)
    return texts.map(lambda t: t[: high or 60]).filter(lambda t: max(low, 1) <= len(t) and "\n" not in t)


def breaches(shape: Shape, value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Ways to break one constraint of a valid value: where, the bad value, and what is broken."""
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if isinstance(shape, StructureShape):
        for name in shape.members:
            if name in value:
                yield from breaches(shape.members[name], value[name], (*path, name))
        return
    if isinstance(shape, ListShape):
        if low is not None and low > 0:
            yield path, value[: low - 1], "too few"
        if high is not None:
            yield path, value[:1] * (high + 1), "too many"
        for i, item in enumerate(value[:1]):
            yield from breaches(shape.member, item, (*path, i))
    elif isinstance(shape, StringShape):
        if low:
            yield path, "", "too short"
        if high:
            yield path, "a" * (high + 1), "too long"
        if shape.enum:
            yield path, "NEITHER", "not of the enum"
        elif shape.metadata.get("pattern") not in (None, ".*", ".*\\S.*"):
            yield path, "\x00 ~", "not of the pattern"
    elif shape.type_name == "integer":
        if low is not None:
            yield path, low - 1, "too small"
        if high is not None:
            yield path, high + 1, "too large"
    elif shape.type_name == "blob" and low:
        yield path, b"", "empty"


def replaced(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy with another value somewhere inside."""
    if not path:
        return new
    if isinstance(value, list):
        return [replaced(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]
    return {k: replaced(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
