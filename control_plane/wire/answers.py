"""From results and errors to bytes, by the service model."""

import base64
import random
from collections.abc import Callable
from typing import Any

import msgspec
from botocore.model import Shape

from linewatch.control_plane.errors import ApiError
from linewatch.control_plane.wire.service_model import Operation

Headers = list[tuple[str, str]]
_TYPES = {"lookoutvision": "application/json", "rekognition": "application/x-amz-json-1.1"}
_REKOGNITION_CODES = {
    "ValidationException": "InvalidParameterException",
    "SerializationException": "InvalidParameterException",
    "ConflictException": "ResourceNotReadyException",
    "ServiceQuotaExceededException": "LimitExceededException",
    "InternalServerException": "InternalServerError",
    "RequestEntityTooLargeException": "InvalidParameterException",
}
"""What Rekognition calls our errors. Those that are not here have the same name there."""


def render(operation: Operation, result: dict[str, Any]) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an answer."""
    body = _to_json(operation.model.output_shape, result, operation.name)
    return operation.status, [("content-type", _TYPES[operation.service])], msgspec.json.encode(body)


_JITTER = 4
"""Callers that are refused together are told times between one and this many times more, lest they come back together."""


def render_error(service: str, error: ApiError, chance: Callable[[], float] = random.random) -> tuple[int, Headers, bytes]:  # noqa: S311 - no secret
    """Status, headers and body of an error: its code stands in the header and in the body, as some clients read only one.

    Args:
        service: whose names and protocol it has.
        error: what to tell.
        chance: gives numbers of [0, 1).
    """
    code, status = error.code, error.status
    headers = [("content-type", _TYPES[service])]
    members = dict(error.members)
    retry_after = members.pop("RetryAfterSeconds", None)
    if retry_after is not None:
        headers.append(("retry-after", str(int(int(retry_after) * (1 + _JITTER * chance())))))
    if service == "rekognition":
        code, members = _REKOGNITION_CODES.get(code, code), {}
        status = 500 if code == "InternalServerError" else 400
    headers.append(("x-amzn-errortype", code))
    return status, headers, msgspec.json.encode({"__type": code, "Message": str(error), **members})


def _to_json(shape: Shape | None, value: Any, where: str) -> Any:
    """A result as JSON can say it. A member that the model does not have is a fault of ours and raises KeyError."""
    if shape is None:
        return {}
    match shape.type_name:
        case "structure":
            members = shape.members
            return {
                members[name].serialization.get("name", name): _to_json(members[name], item, f"{where}.{name}")
                for name, item in value.items()
                if item is not None
            }
        case "list":
            return [_to_json(shape.member, item, where) for item in value]
        case "blob":
            return base64.b64encode(value).decode()
        case _:
            return value
