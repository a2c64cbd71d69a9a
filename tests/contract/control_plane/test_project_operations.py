"""Operations on projects."""

import base64
import json
import secrets
import time

import pytest

from tests.contract.control_plane.cases import (
    PICTURE,
    Case,
    case,
    cases_of,
    conflict,
    content,
    picture_in_a_bucket,
    quota,
    refused,
)
from tests.contract.control_plane.conftest import Bench
from tests.server import ACCOUNT, REGION


@case("CreateProject")
def create_project(b: Bench) -> None:
    made = b.api.create_project(ProjectName=b.project)["ProjectMetadata"]
    assert made["ProjectArn"] == f"arn:aws:lookoutvision:{REGION}:{ACCOUNT}:project/{b.project}"
    assert made["ProjectName"] == b.project
    assert abs(made["CreationTimestamp"].timestamp() - time.time()) < 3600


@case("CreateProject", "ConflictException")
def create_project_twice(b: Bench) -> None:
    b.make()
    conflict(lambda: b.api.create_project(ProjectName=b.project), "PROJECT")


@case("CreateProject", "ServiceQuotaExceededException")
def too_many_projects(b: Bench) -> None:
    # A region of its own: other cases must not find it full.
    client = b.server.client(b.server.credential(), region=f"full-{secrets.token_hex(4)}")
    for i in range(100):
        client.create_project(ProjectName=f"p{i}")
    quota(lambda: client.create_project(ProjectName="one-more"), "quota_projects")


@case("DescribeProject")
def describe_project(b: Bench) -> None:
    b.make("train", "test")
    found = b.api.describe_project(ProjectName=b.project)["ProjectDescription"]
    assert [(d["DatasetType"], d["Status"], d["StatusMessage"]) for d in found["Datasets"]] == [
        ("train", "CREATE_COMPLETE", ""), ("test", "CREATE_COMPLETE", ""),
    ]  # fmt: skip


@case("DescribeProject")
def a_project_without_datasets_has_an_empty_list(b: Bench) -> None:
    b.make()
    assert b.api.describe_project(ProjectName=b.project)["ProjectDescription"]["Datasets"] == []


@case("ListProjects")
def list_projects(b: Bench) -> None:
    client = b.server.client(b.server.credential(), region=f"list-{secrets.token_hex(4)}")
    names = sorted(f"p-{i:02d}" for i in range(7))
    for name in reversed(names):
        client.create_project(ProjectName=name)
    pages = list(client.get_paginator("list_projects").paginate(PaginationConfig={"PageSize": 3}))
    assert [len(p["Projects"]) for p in pages] == [3, 3, 1]
    assert [x["ProjectName"] for p in pages for x in p["Projects"]] == names
    assert b.project not in names


@case("ListProjects", "ValidationException")
def a_page_token_that_was_made_up(b: Bench) -> None:
    for token in ("AAAA", base64.b64encode(b"x" * 40).decode()):
        refused(lambda token=token: b.api.list_projects(NextToken=token), "ValidationException", 400)
    refused(lambda: b.api.list_projects(MaxResults=101), "ValidationException", 400)


@case("DeleteProject")
def delete_project(b: Bench) -> None:
    address = picture_in_a_bucket(b)
    b.make("train")
    b.api.update_dataset_entries(ProjectName=b.project, DatasetType="train", Changes=json.dumps({"source-ref": address}))
    b.settled()
    b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
    b.api.create_dataset(ProjectName=b.project, DatasetType="train")  # an empty dataset goes with it
    assert b.api.delete_project(ProjectName=b.project)["ProjectArn"].endswith(f"project/{b.project}")
    refused(lambda: b.api.describe_project(ProjectName=b.project), "ResourceNotFoundException", 404)
    b.make()
    assert content(b, address) == PICTURE


@case("DeleteProject", "ConflictException")
def delete_a_project_with_models_or_entries(b: Bench) -> None:
    b.make("train", lines=3)
    conflict(lambda: b.api.delete_project(ProjectName=b.project), "PROJECT")
    b.model()
    b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
    conflict(lambda: b.api.delete_project(ProjectName=b.project), "PROJECT")


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
