"""The services' models: operations, shapes and constraints, read from our own files, and routing by them.

`client_models/` is the same file that clients are given, so both sides agree by construction.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import msgspec
from botocore.model import OperationModel, ServiceModel, StructureShape

API_PREFIX = "/2020-11-20/"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a service."""

    service: str
    model: OperationModel

    @property
    def name(self) -> str:
        """Such as CreateProject."""
        return str(self.model.name)

    @property
    def action(self) -> str:
        """As policies call it: lookoutvision:CreateProject."""
        return f"{self.service}:{self.name}"

    @property
    def is_read(self) -> bool:
        """Changes nothing."""
        return self.name.startswith(("Describe", "List"))

    @property
    def status(self) -> int:
        """HTTP status of success."""
        return int(self.model.http.get("responseCode", 200))

    @property
    def input_shape(self) -> StructureShape:
        """Of the request."""
        return self.model.input_shape


def models_folder() -> Path:
    """Where client_models/ lies."""
    return Path(__file__).parents[2] / "client_models"


@cache
def _load(service: str) -> ServiceModel:
    ours = models_folder() / service / "2020-11-20" / "service-2.json"
    path = ours if service == "lookoutvision" else Path(__file__).with_name(f"{service}.json")
    return ServiceModel(msgspec.json.decode(path.read_bytes()), service)


@cache
def operations(service: str) -> dict[str, Operation]:
    """All operations of `lookoutvision` or `rekognition` by name."""
    model = _load(service)
    return {name: Operation(service, model.operation_model(name)) for name in model.operation_names}


@cache
def _routes() -> tuple[tuple[str, re.Pattern[str], tuple[str, ...], Operation], ...]:
    table = []
    for operation in operations("lookoutvision").values():
        template = operation.model.http["requestUri"]
        labels = tuple(re.findall(r"\{(\w+)\}", template))
        # An ARN's slash should come escaped; where a client forgot, it is still the last part of the path.
        pattern = re.sub(r"\\\{(\w+)\\\}", lambda m: "(.+)" if m[1] == "resourceArn" else "([^/]+)", re.escape(template))
        table.append((operation.model.http["method"], re.compile(pattern), labels, operation))
    return tuple(table)


def route(method: str, raw_path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation of a REST call, and the path's labels, decoded; None when there is no such operation.

    The path is matched as it came, with its escapes: an ARN is one segment whatever slashes it holds.
    """
    for wanted, pattern, labels, operation in _routes():
        if method == wanted and (match := pattern.fullmatch(raw_path)):
            return operation, {label: unquote(value) for label, value in zip(labels, match.groups(), strict=True)}
    return None
