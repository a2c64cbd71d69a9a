"""Every operation: the errors that all have, and that no success and no error which the model declares is without a case.

The cases are in the files of the groups. `test_no_case_is_missing` reads the operations and their errors from the service
model: an operation or an error without a case fails the suite.
"""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from linewatch.control_plane.access.policy import ROLES
from linewatch.control_plane.wire.service_model import operations
from tests.contract.control_plane import (  # noqa: F401 - each adds its cases to the table
    test_dataset_operations,
    test_hosting_operations,
    test_model_operations,
    test_packaging_operations,
    test_project_operations,
    test_tagging_operations,
)
from tests.contract.control_plane.cases import CASES, SUCCESS, package_config, refused
from tests.contract.control_plane.conftest import Bench
from tests.shapes import valid


def minimal(operation: str) -> dict[str, Any]:
    """A valid request that names what is not there, made from the model's shapes."""
    from hypothesis import HealthCheck, Phase, given, settings

    shape = operations("lookoutvision")[operation].input_shape
    found: list[dict[str, Any]] = []

    @settings(max_examples=1, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(valid(shape))
    def take(request: dict[str, Any]) -> None:
        found.append({k: v for k, v in request.items() if k in shape.required_members})

    take()
    request = found[0]
    if "ProjectName" in request:
        request["ProjectName"] = f"absent-{secrets.token_hex(4)}"
    if operation == "StartModelPackagingJob":
        request["Configuration"] = package_config("c")
    return request


def method(client: Any, operation: str) -> Callable[..., Any]:
    from botocore import xform_name

    return getattr(client, xform_name(operation))  # type: ignore[no-any-return]


NAMES = sorted(operations("lookoutvision"))

NO_RESOURCE = {"CreateProject", "ListProjects"}
"""Name no resource that could be missing."""


@pytest.mark.parametrize("operation", NAMES)
def test_access_denied(bench: Bench, operation: str) -> None:
    refused(lambda: method(bench.allowed(), operation)(**minimal(operation)), "AccessDeniedException", 403)


@pytest.mark.parametrize("operation", sorted(set(NAMES) - NO_RESOURCE))
def test_resource_not_found(bench: Bench, operation: str) -> None:
    found = refused(lambda: method(bench.api, operation)(**minimal(operation)), "ResourceNotFoundException", 404)
    assert found["ResourceId"]
    assert found["ResourceType"] in ("PROJECT", "DATASET", "MODEL", "MODEL_PACKAGE_JOB")


@pytest.mark.parametrize("operation", NAMES)
def test_validation(bench: Bench, operation: str) -> None:
    from tests.shapes import breaches, replaced

    shape = operations("lookoutvision")[operation].input_shape
    client = bench.server.client(bench.server.credential(), parameter_validation=False)
    request = minimal(operation) or {"MaxResults": 5}
    found = 0
    for path, bad, why in breaches(shape, request):
        if bad in ("", b"") or why == "too many":  # an empty part of a path is another path; long lists are not sent here
            continue
        response = None
        try:
            method(client, operation)(**replaced(request, path, bad))
        except ClientError as error:
            response = error.response
        assert response is not None, (path, bad)
        assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == ("ValidationException", 400), (path, bad)
        found += 1
    assert found


BY_EVERY_OPERATION = {"AccessDeniedException", "ResourceNotFoundException", "ValidationException"}
"""Cases above, generated from the model."""

BY_THE_GATEWAY = {"InternalServerException", "ThrottlingException"}
"""Shown for every operation in tests/unit/control_plane/test_gateway.py, where the store can be made to fail."""

NEVER = {
    (name, "ConflictException")
    for name in ("DescribeDataset", "DescribeModel", "DescribeProject", "ListDatasetEntries", "ListModels", "ListProjects",
                 "ListTagsForResource", "TagResource", "UntagResource")
} | {(name, "ResourceNotFoundException") for name in NO_RESOURCE} | {("CreateDataset", "ServiceQuotaExceededException")}  # fmt: skip
"""Declared by the model, and answered by nothing: reading and tagging conflict with nothing, creating and listing projects names
no resource, and a project has two datasets at most by their types."""


def test_no_case_is_missing() -> None:
    declared = {
        (name, error)
        for name, operation in operations("lookoutvision").items()
        for error in (SUCCESS, *(e.name for e in operation.model.error_shapes))
    }
    generated = {(name, error) for name, error in declared if error in BY_EVERY_OPERATION | BY_THE_GATEWAY}
    assert not declared - set(CASES) - NEVER - generated
    assert not set(CASES) & NEVER
    assert set(CASES) <= declared
    assert not {(f"{name}ModelPackagingJob{s}", "ConflictException") for name, s in (("Describe", ""), ("List", "s"))} & declared


def test_roles_read_and_do_not_write(bench: Bench) -> None:
    bench.make("train")
    reader = bench.server.client(bench.server.credential(ROLES["read-only"]))
    assert reader.describe_project(ProjectName=bench.project)["ProjectDescription"]["Datasets"]
    refused(lambda: reader.delete_dataset(ProjectName=bench.project, DatasetType="train"), "AccessDeniedException", 403)
