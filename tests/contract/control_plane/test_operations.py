"""Every operation: a success case and every error that the model declares for it.

`test_no_case_is_missing` reads the operations and their errors from the service model: an operation or an error without a
case fails the suite.
"""

import base64
import json
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from linewatch.control_plane.access.policy import ROLES, Policy, Statement
from linewatch.control_plane.jobs.admin import JobAdmin
from linewatch.control_plane.wire.service_model import operations
from tests.contract.control_plane.conftest import Bench, entry, manifest
from tests.server import ACCOUNT, REGION, wait_for
from tests.shapes import valid

Case = Callable[[Bench], None]
SUCCESS = "success"
CASES: dict[tuple[str, str], list[Case]] = {}


def case(operation: str, error: str = SUCCESS) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES.setdefault((operation, error), []).append(function)
        return function

    return add


def refused(call: Callable[[], Any], code: str, status: int, **members: str) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), response
    assert len(response["Error"]["Message"]) > 10
    for name, value in members.items():
        assert response[name] == value, response
    return dict(response)


def conflict(call: Callable[[], Any], kind: str) -> None:
    assert refused(call, "ConflictException", 409, ResourceType=kind)["ResourceId"]


def quota(call: Callable[[], Any], name: str) -> None:
    refused(call, "ServiceQuotaExceededException", 402, QuotaCode=name, ServiceCode="lookoutvision")


def train_config(**extra: Any) -> dict[str, Any]:
    return {"OutputConfig": {"S3Location": {"Bucket": "out"}}, **extra}


def package_config(component: str, **extra: Any) -> dict[str, Any]:
    return {"Greengrass": {"S3OutputLocation": {"Bucket": "out"}, "ComponentName": component,
                           "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}, **extra}}  # fmt: skip


# --- projects


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


PICTURE = b"no picture, but that is not looked at here"


def picture_in_a_bucket(b: Bench) -> str:
    bucket = f"pictures-{secrets.token_hex(4)}"
    b.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    b.s3.put_object(Bucket=bucket, Key="one.png", Body=PICTURE)
    return f"s3://{bucket}/one.png"


def content(b: Bench, address: str) -> bytes:
    _, _, bucket, key = address.split("/", 3)
    return bytes(b.s3.get_object(Bucket=bucket, Key=key)["Body"].read())


@case("DeleteProject", "ConflictException")
def delete_a_project_with_models_or_entries(b: Bench) -> None:
    b.make("train", lines=3)
    conflict(lambda: b.api.delete_project(ProjectName=b.project), "PROJECT")
    b.model()
    b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
    conflict(lambda: b.api.delete_project(ProjectName=b.project), "PROJECT")


# --- datasets


@case("CreateDataset")
def create_an_empty_dataset(b: Bench) -> None:
    b.make()
    made = b.api.create_dataset(ProjectName=b.project, DatasetType="test")["DatasetMetadata"]
    assert (made["DatasetType"], made["Status"], made["StatusMessage"]) == ("test", "CREATE_COMPLETE", "")


def from_manifest(b: Bench, body: bytes, kind: str = "train") -> dict[str, Any]:
    b.make()
    bucket = f"manifests-{secrets.token_hex(4)}"
    b.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    b.s3.put_object(Bucket=bucket, Key="a/lines.txt", Body=body)
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": bucket, "Key": "a/lines.txt"}}}
    made = b.api.create_dataset(ProjectName=b.project, DatasetType=kind, DatasetSource=source)["DatasetMetadata"]
    assert made["Status"] == "CREATE_IN_PROGRESS"
    found = b.settled(kind)
    assert content(b, f"s3://{bucket}/a/lines.txt") == body  # the caller's file is only read
    b.s3.delete_object(Bucket=bucket, Key="a/lines.txt")  # and not needed any longer
    return found


@case("CreateDataset")
def create_a_dataset_from_a_manifest(b: Bench) -> None:
    done = from_manifest(b, b"\xef\xbb\xbf" + manifest(1234) + b"\n\n")
    labelled = [i for i in range(1234) if i % 7]
    assert done["Status"] == "CREATE_COMPLETE"
    assert done["StatusMessage"].startswith(
        f"{len(labelled)} of {len(labelled)} labelled pictures and masks are not there: s3://pictures/part-00001.png (line 2), "
    )
    anomalies = sum(i % 3 == 0 for i in labelled)
    assert done["ImageStats"] == {
        "Total": 1234, "Labeled": len(labelled), "Normal": len(labelled) - anomalies, "Anomaly": anomalies,
    }  # fmt: skip


@case("CreateDataset")
def a_manifest_of_pictures_that_its_writer_may_not_read(b: Bench) -> None:
    b.make()
    bucket = f"manifests-{secrets.token_hex(4)}"
    b.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    b.s3.put_object(Bucket=bucket, Key="m", Body=manifest(20))
    client = may_read(b, f"arn:aws:s3:::{bucket}/*")
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": bucket, "Key": "m"}}}
    client.create_dataset(ProjectName=b.project, DatasetType="train", DatasetSource=source)
    done = b.settled()
    assert (done["Status"], done["ImageStats"]["Total"]) == ("CREATE_FAILED", 0)
    assert "s3:GetObject on 20 of 20 pictures and masks: s3://pictures/part-00000.png" in done["StatusMessage"]


@case("UpdateDatasetEntries")
def entries_that_the_caller_may_not_read(b: Bench) -> None:
    b.make("train", lines=3)
    may_read(b, "arn:aws:s3:::pictures/part-00007.png").update_dataset_entries(
        ProjectName=b.project, DatasetType="train", Changes=manifest(2, start=7)
    )
    done = b.settled()
    assert (done["Status"], done["ImageStats"]["Total"]) == ("UPDATE_FAILED_ROLLBACK_COMPLETE", 3)
    assert "1 of 2 pictures and masks: s3://pictures/part-00008.png" in done["StatusMessage"]


@case("CreateModel", "AccessDeniedException")
def train_on_pictures_that_the_caller_may_not_read(b: Bench) -> None:
    b.make("train", lines=3)
    found = refused(lambda: may_read(b, "arn:aws:s3:::pictures/part-00001.png").create_model(ProjectName=b.project, **train_config()),
                    "AccessDeniedException", 403)  # fmt: skip
    assert "s3://pictures/part-00002.png" in found["Error"]["Message"]  # the unlabelled one is not read
    other = b.server.credential(account="999988887777")
    bucket = f"theirs-{secrets.token_hex(4)}"
    b.server.client(other, "s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    refused(lambda: b.api.create_model(ProjectName=b.project, OutputConfig={"S3Location": {"Bucket": bucket}}), "AccessDeniedException", 403)


def may_read(b: Bench, *resources: str) -> Any:
    """A client that may do all but read other objects than these."""
    statements = [
        Statement("Allow", ["lookoutvision:*", "s3:PutObject"]), Statement("Allow", "s3:GetObject", list(resources)),
    ]  # fmt: skip
    return b.server.client(b.server.credential(Policy(statements)))


@pytest.mark.parametrize(("body", "reason"), [
    (b"{}", "line 1 has no source-ref"), (manifest(3) + b"\nnot json", "line 4 is not a JSON object"), (b"", "no lines"),
    (manifest(2) + b"\n" + manifest(1), "line 3 names s3://pictures/part-00000.png, as line 1 does"),
    (manifest(2) + b"\n" + manifest(1, "other", 9), "bucket other"),
    (b'{"source-ref": "s3://b/k", "x": "' + b"y" * 9000 + b'"}', "8192"),
    (manifest(2) + b'\n{"source-ref": "s3://pictures/nul\\u0000.png"}', "nul\\x00.png', with the character U+0000"),
])  # fmt: skip
def test_a_manifest_that_is_wrong_says_where(bench: Bench, body: bytes, reason: str) -> None:
    done = from_manifest(bench, body)
    assert done["Status"] == "CREATE_FAILED"
    assert reason in done["StatusMessage"]
    assert done["ImageStats"]["Total"] == 0
    bench.api.delete_dataset(ProjectName=bench.project, DatasetType="train")
    bench.api.create_dataset(ProjectName=bench.project, DatasetType="train")


def test_pictures_that_are_not_there_are_told_when_the_dataset_is_made(bench: Bench) -> None:
    bucket = f"pictures-{secrets.token_hex(4)}"
    bench.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for i in (1, 2):
        bench.s3.put_object(Bucket=bucket, Key=f"part-{i:05d}.png", Body=b"x")
    done = from_manifest(bench, manifest(4, bucket))
    assert (done["Status"], done["ImageStats"]["Total"]) == ("CREATE_COMPLETE", 4)
    assert done["StatusMessage"] == (
        f"1 of 3 labelled pictures and masks are not there: s3://{bucket}/part-00003.png (line 4). Store them before CreateModel"
    )
    bench.s3.put_object(Bucket=bucket, Key="part-00003.png", Body=b"x")
    bench.api.update_dataset_entries(ProjectName=bench.project, DatasetType="train", Changes=manifest(4, bucket))
    done = bench.settled()
    assert (done["Status"], done["StatusMessage"]) == ("UPDATE_COMPLETE", "")


def test_a_manifest_that_is_not_there_says_so(bench: Bench) -> None:
    bench.make()
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": "nowhere", "Key": "k"}}}
    bench.api.create_dataset(ProjectName=bench.project, DatasetType="train", DatasetSource=source)
    done = bench.settled()
    assert done["Status"] == "CREATE_FAILED"
    assert "nowhere" in done["StatusMessage"]


@case("CreateDataset", "ConflictException")
def create_a_dataset_twice(b: Bench) -> None:
    b.make("train")
    conflict(lambda: b.api.create_dataset(ProjectName=b.project, DatasetType="train"), "DATASET")


@case("DescribeDataset")
def describe_dataset(b: Bench) -> None:
    b.make("train")
    found = b.api.describe_dataset(ProjectName=b.project, DatasetType="train")["DatasetDescription"]
    assert found["ImageStats"] == {"Total": 0, "Labeled": 0, "Normal": 0, "Anomaly": 0}
    assert (found["ProjectName"], found["DatasetType"], found["StatusMessage"]) == (b.project, "train", "")
    b.update("train", 5)
    later = b.api.describe_dataset(ProjectName=b.project, DatasetType="train")["DatasetDescription"]
    assert later["LastUpdatedTimestamp"] > found["LastUpdatedTimestamp"]
    assert later["CreationTimestamp"] == found["CreationTimestamp"]


@case("DescribeDataset", "ResourceNotFoundException")
def describe_a_missing_dataset(b: Bench) -> None:
    b.make("train", "test")
    b.api.delete_dataset(ProjectName=b.project, DatasetType="test")
    refused(lambda: b.api.describe_dataset(ProjectName=b.project, DatasetType="test"), "ResourceNotFoundException", 404,
            ResourceType="DATASET")  # fmt: skip


@case("DeleteDataset")
def delete_a_dataset_and_make_it_again_at_once(b: Bench) -> None:
    b.make("train", lines=20)
    for _ in range(3):
        answer = b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
        b.api.create_dataset(ProjectName=b.project, DatasetType="train")
    found = b.api.describe_dataset(ProjectName=b.project, DatasetType="train")["DatasetDescription"]
    assert found["ImageStats"]["Total"] == 0


@case("CreateDataset")
@case("DeleteDataset")
def take_entries_out_by_making_the_dataset_again(b: Bench) -> None:
    b.make("train", lines=3)
    address = picture_in_a_bucket(b)
    lines = b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train")["DatasetEntries"]
    body = "\n".join([lines[0], json.dumps(json.loads(lines[2]) | {"note": "Straße"}, ensure_ascii=False)]).encode()
    bucket = address.split("/")[2]
    b.s3.put_object(Bucket=bucket, Key="edited", Body=body)
    b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": bucket, "Key": "edited"}}}
    b.api.create_dataset(ProjectName=b.project, DatasetType="train", DatasetSource=source)
    assert b.settled()["ImageStats"]["Total"] == 2
    again = b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train")["DatasetEntries"]
    assert [json.loads(x) for x in again] == [json.loads(x) for x in body.decode().splitlines()]
    b.api.delete_dataset(ProjectName=b.project, DatasetType="train")
    assert content(b, address) == PICTURE


def busy_dataset(b: Bench) -> None:
    """A dataset that takes its time: a manifest of many lines is read again and again until the case is over."""
    import sqlalchemy as sa

    from linewatch.control_plane.store.schema import datasets, projects

    b.make("train")
    store = b.server.store()
    with store.write() as c:
        project_id = c.execute(sa.select(projects.c.id).where(projects.c.name == b.project)).scalar()
        c.execute(sa.update(datasets).where(datasets.c.project_id == project_id).values(status="UPDATE_IN_PROGRESS"))
    store.close()


@case("DeleteDataset", "ConflictException")
def delete_a_busy_dataset(b: Bench) -> None:
    busy_dataset(b)
    conflict(lambda: b.api.delete_dataset(ProjectName=b.project, DatasetType="train"), "DATASET")


@case("ListDatasetEntries")
def list_dataset_entries(b: Bench) -> None:
    b.make("train", lines=150)

    def lines(**filters: Any) -> list[dict[str, Any]]:
        pages = b.api.get_paginator("list_dataset_entries").paginate(
            ProjectName=b.project, DatasetType="train", PaginationConfig={"PageSize": 40}, **filters
        )  # fmt: skip
        return [json.loads(line) for page in pages for line in page["DatasetEntries"]]

    def labelled(i: int, of: str = "") -> bool:
        return bool(i % 7) and of in ("", "normal" if i % 3 else "anomaly")

    # As they were sent, but that the label's value is 1 for an anomaly and 0 for a normal picture.
    everything = [entry(i) | ({"anomaly-label": int(labelled(i, "anomaly"))} if labelled(i) else {}) for i in range(150)]
    assert lines() == everything
    assert len(b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train")["DatasetEntries"]) == 100
    assert lines(Labeled=True) == [x for i, x in enumerate(everything) if labelled(i)]
    assert lines(Labeled=False) == [x for i, x in enumerate(everything) if not labelled(i)]
    for kind in ("anomaly", "normal"):
        assert lines(AnomalyClass=kind) == [x for i, x in enumerate(everything) if labelled(i, kind)]
    assert [x["source-ref"][-9:] for x in lines(SourceRefContains="00012")] == ["00012.png"]
    assert lines(SourceRefContains="%") == lines(SourceRefContains="_") == lines(SourceRefContains="PART") == []
    early = lines(BeforeCreationDate="2026-01-03T00:00:00Z", Labeled=True)
    dates = {i: f"2026-01-{1 + i % 28:02d}" for i in range(150) if labelled(i)}
    assert early == [everything[i] for i, date in dates.items() if date < "2026-01-03"]
    later = lines(AfterCreationDate="2026-01-02T12:00:00Z", BeforeCreationDate="2026-01-04T12:00:00Z", AnomalyClass="anomaly",
                  SourceRefContains="part-0008")  # fmt: skip
    assert later == [everything[i] for i in range(80, 90) if labelled(i, "anomaly") and dates[i] in ("2026-01-03", "2026-01-04")] != []


@case("ListDatasetEntries", "ValidationException")
def a_token_of_other_filters(b: Bench) -> None:
    b.make("train", lines=5)
    token = b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train", MaxResults=2)["NextToken"]
    refused(lambda: b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train", MaxResults=2, Labeled=True,
                                               NextToken=token), "ValidationException", 400)  # fmt: skip


@case("UpdateDatasetEntries")
def update_dataset_entries(b: Bench) -> None:
    b.make("train", lines=5)
    changed = {"source-ref": "s3://pictures/part-00002.png", "camera": 7}
    body = "\n".join([json.dumps(changed), json.dumps(entry(90)), json.dumps(entry(90) | {"last": "wins"})])
    answer = b.api.update_dataset_entries(ProjectName=b.project, DatasetType="train", Changes=body)
    assert answer["Status"] == "UPDATE_IN_PROGRESS"
    assert b.api.describe_dataset(ProjectName=b.project, DatasetType="train")["DatasetDescription"]["Status"].startswith("UPDATE_")
    assert b.settled()["Status"] == "UPDATE_COMPLETE"
    lines = [json.loads(x) for x in b.api.list_dataset_entries(ProjectName=b.project, DatasetType="train")["DatasetEntries"]]
    assert [x["source-ref"][-9:-4] for x in lines] == ["00000", "00001", "00002", "00003", "00004", "00090"]
    assert lines[2] == changed
    assert lines[-1]["last"] == "wins"


@pytest.mark.parametrize(("body", "reason"), [
    (manifest(3, start=50) + b"\nnot json", "line 4 of Changes"), (manifest(1, "other"), "another bucket"), (b"\n\n", "no lines"),
    (manifest(1, start=50) + b'\n{"source-ref": "s3://pictures/a/../b.png"}', "line 2 of Changes has the source-ref"),
])  # fmt: skip
def test_an_update_is_all_or_nothing(bench: Bench, body: bytes, reason: str) -> None:
    bench.make("train", lines=5)
    bench.api.update_dataset_entries(ProjectName=bench.project, DatasetType="train", Changes=body)
    done = bench.settled()
    assert done["Status"] == "UPDATE_FAILED_ROLLBACK_COMPLETE"
    assert reason in done["StatusMessage"]
    assert done["ImageStats"]["Total"] == 5
    bench.update("train", 2, start=60)
    assert bench.settled()["ImageStats"]["Total"] == 7


@case("UpdateDatasetEntries", "ConflictException")
def update_a_busy_dataset(b: Bench) -> None:
    busy_dataset(b)
    conflict(lambda: b.api.update_dataset_entries(ProjectName=b.project, DatasetType="train", Changes=manifest(1)), "DATASET")


# --- models


@case("CreateModel")
def create_model(b: Bench) -> None:
    b.make("train", lines=3)
    made = b.api.create_model(ProjectName=b.project, Description="first.try", KmsKeyId="alias/key",
                              Tags=[{"Key": "line", "Value": "7"}], **train_config())["ModelMetadata"]  # fmt: skip
    assert (made["ModelVersion"], made["Status"], made["StatusMessage"]) == ("1", "TRAINING", "")
    assert "Performance" not in made
    assert b.api.list_tags_for_resource(ResourceArn=made["ModelArn"])["Tags"] == [{"Key": "line", "Value": "7"}]
    # The pictures are not there: the training fails, and says why.
    wait_for(lambda: b.status("1"), lambda s: s == "TRAINING_FAILED", 120)
    found = b.api.describe_model(ProjectName=b.project, ModelVersion="1")["ModelDescription"]
    assert "s3://pictures/part-00000.png" in found["StatusMessage"] or "pictures" in found["StatusMessage"]
    assert (found["Description"], found["KmsKeyId"]) == ("first.try", "alias/key")
    assert b.api.create_model(ProjectName=b.project, **train_config())["ModelMetadata"]["ModelVersion"] == "2"
    wait_for(lambda: b.status("2"), lambda s: s == "TRAINING_FAILED", 120)
    assert [m["ModelVersion"] for m in b.api.list_models(ProjectName=b.project)["Models"]] == ["2", "1"]
    b.api.delete_model(ProjectName=b.project, ModelVersion="2")
    wait_for(lambda: len(b.api.list_models(ProjectName=b.project)["Models"]), lambda left: left == 1)
    assert b.api.create_model(ProjectName=b.project, **train_config())["ModelMetadata"]["ModelVersion"] == "3"  # never used again


@case("CreateModel", "ConflictException")
def create_a_model_of_a_failed_dataset(b: Bench) -> None:
    from_manifest(b, b"not json")
    conflict(lambda: b.api.create_model(ProjectName=b.project, **train_config()), "DATASET")


@case("CreateModel", "ValidationException")
def create_a_model_without_a_dataset(b: Bench) -> None:
    b.make("test")
    refused(lambda: b.api.create_model(ProjectName=b.project, **train_config()), "ValidationException", 400)


@case("CreateModel", "ServiceQuotaExceededException")
def too_many_models(b: Bench) -> None:
    b.make("train")
    for version in range(1, 101):
        store_model(b, version)
    quota(lambda: b.api.create_model(ProjectName=b.project, **train_config()), "quota_models")


@case("CreateModel", "ServiceQuotaExceededException")
def too_many_trainings(b: Bench) -> None:
    b.make("train")
    for version in range(1, 51):
        store_model(b, version, "TRAINING")
    try:
        quota(lambda: b.api.create_model(ProjectName=b.project, **train_config()), "quota_trainings")
    finally:
        remove_models(b)


def store_model(b: Bench, version: int, status: str = "TRAINED", **columns: Any) -> None:
    """A model without its files."""
    import sqlalchemy as sa

    from linewatch.control_plane.store.schema import models, projects

    store = b.server.store()
    with store.write() as c:
        project_id = c.execute(sa.select(projects.c.id).where(projects.c.name == b.project)).scalar()
        c.execute(sa.insert(models).values(project_id=project_id, version=version, status=status, created=1.0, output_bucket="o",
                                           output_prefix="", performance={"F1Score": 0.5, "Recall": 1.0, "Precision": 0.25},
                                           **columns))  # fmt: skip
    store.close()


def remove_models(b: Bench) -> None:
    """Take a project's models out of the store."""
    import sqlalchemy as sa

    from linewatch.control_plane.store.schema import models, projects

    store = b.server.store()
    with store.write() as c:
        mine = sa.select(projects.c.id).where(projects.c.name == b.project)
        c.execute(sa.delete(models).where(models.c.project_id.in_(mine)))
    store.close()


@case("DescribeModel")
def describe_model(b: Bench) -> None:
    b.make("train")
    for version in (1, 2):
        store_model(b, version)
    found = b.api.describe_model(ProjectName=b.project, ModelVersion="latest")["ModelDescription"]
    assert (found["ModelVersion"], found["ModelArn"], found["StatusMessage"]) == ("2", b.arn("2"), "")
    assert found["Performance"] == {"F1Score": 0.5, "Recall": 1.0, "Precision": 0.25}
    assert found["OutputConfig"] == {"S3Location": {"Bucket": "o", "Prefix": ""}}
    assert "MinInferenceUnits" not in found
    store_model(b, 3, "STOPPING_HOSTING", description="d", kms_key="k", evaluation_manifest="m", evaluation_result="r", evaluated=2.0,
                min_units=1, max_units=2)  # fmt: skip
    full = b.api.describe_model(ProjectName=b.project, ModelVersion="3")["ModelDescription"]
    assert set(full) == set(operations("lookoutvision")["DescribeModel"].model.output_shape.members["ModelDescription"].members)
    assert (full["Status"], full["Description"], full["KmsKeyId"]) == ("STOPPING_HOSTING", "d", "k")
    assert (full["EvaluationManifest"], full["EvaluationResult"]) == ({"Bucket": "o", "Key": "m"}, {"Bucket": "o", "Key": "r"})
    assert (full["CreationTimestamp"].timestamp(), full["EvaluationEndTimestamp"].timestamp()) == (1, 2)
    assert (full["MinInferenceUnits"], full["MaxInferenceUnits"]) == (1, 2)


@case("ListModels")
def list_models(b: Bench) -> None:
    b.make("train")
    for version in range(1, 6):
        store_model(b, version)
    pages = list(b.api.get_paginator("list_models").paginate(ProjectName=b.project, PaginationConfig={"PageSize": 2}))
    assert [(m["ModelVersion"], m["StatusMessage"]) for p in pages for m in p["Models"]] == [(str(v), "") for v in (5, 4, 3, 2, 1)]


@case("DeleteModel")
def delete_model(b: Bench) -> None:
    b.make("train")
    b.model()
    b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": "line", "Value": "7"}])
    assert b.api.delete_model(ProjectName=b.project, ModelVersion="1")["ModelArn"] == b.arn()
    wait_for(lambda: b.api.list_models(ProjectName=b.project)["Models"], lambda found: not found)
    refused(lambda: b.api.list_tags_for_resource(ResourceArn=b.arn()), "ResourceNotFoundException", 404)
    store_model(b, 1)
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == []


@case("DeleteModel", "ConflictException")
def delete_a_hosted_model(b: Bench) -> None:
    b.make("train")
    b.model()
    b.hosted()
    for version, status in enumerate(("DELETING", "TRAINING"), 2):
        store_model(b, version, status)
    for version in ("1", "2", "3"):
        conflict(lambda version=version: b.api.delete_model(ProjectName=b.project, ModelVersion=version), "MODEL")
    assert b.status("3") == "TRAINING"
    b.stopped()


@case("DeleteModel", "ValidationException")
def delete_the_latest(b: Bench) -> None:
    refused(lambda: b.api.delete_model(ProjectName=b.project, ModelVersion="latest"), "ValidationException", 400)


@case("StartModel")
@case("StopModel")
@case("DetectAnomalies")
def host_and_ask(b: Bench) -> None:
    b.make("train")
    b.model()
    b.hosted("latest")
    described = b.api.describe_model(ProjectName=b.project, ModelVersion="1")["ModelDescription"]
    assert (described["MinInferenceUnits"], "MaxInferenceUnits" in described) == (1, False)
    picture = b.bundle.manifest.picture
    colors = {"background": "#FFFFFF", **{label.name: label.hex_color.upper() for label in b.bundle.manifest.labels}}
    assert b.parts is not None
    seen = set()
    for path in sorted((b.parts / "test").glob("*/*.png")):
        found = detect(b, path.read_bytes(), version="latest")
        assert found["Source"] == {"Type": "direct"}
        assert 0 <= found["Confidence"] <= 1
        assert found["Anomalies"][0]["Name"] == "background"
        for area in found["Anomalies"]:
            assert area["PixelAnomaly"]["Color"] == colors[area["Name"]]
        mask_matches(found, picture.width, picture.height)
        # The rules of the service's examples: a sure verdict, a defect's share of the picture, how many types there are.
        sure = found["IsAnomalous"] and found["Confidence"] >= 0.5
        shares = {a["Name"]: a["PixelAnomaly"]["TotalPercentageArea"] for a in found["Anomalies"] if a["Name"] != "background"}
        seen.add((sure, sure and any(share > 0.0005 for share in shares.values()), sure and len(shares) > 0))
    assert {(True, True, True), (False, False, False)} <= seen
    assert "Anomalies" in detect(b, encoded(picture.width, picture.height, "JPEG"), "image/jpeg")
    conflict(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=1), "MODEL")
    for body, kind in ((b"not a picture", "image/png"), (png(picture.width, picture.height), "image/jpeg"), (png(64, 64), "image/png"),
                       (png(picture.width, picture.height)[:200], "image/png"), (b"x", "text/plain"),
                       (b"\x89PNG\r\n\x1a\n" + b"x" * 9_000_000, "image/png")):  # fmt: skip
        refused(lambda body=body, kind=kind: detect(b, body, kind), "ValidationException", 400)
    b.stopped("latest")
    assert "MinInferenceUnits" not in b.api.describe_model(ProjectName=b.project, ModelVersion="1")["ModelDescription"]


def detect(b: Bench, body: bytes, kind: str = "image/png", version: str = "1") -> dict[str, Any]:
    answer = b.api.detect_anomalies(ProjectName=b.project, ModelVersion=version, Body=body, ContentType=kind)
    return dict(answer["DetectAnomalyResult"])


def mask_matches(found: dict[str, Any], width: int, height: int) -> None:
    """The mask is RGB of the picture's size, white but for the defects, and its colours cover what the areas say."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    assert len(found["AnomalyMask"]) <= 5 * 1024 * 1024
    with Image.open(BytesIO(found["AnomalyMask"])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
        pixels = np.asarray(image).reshape(-1, 3)
    areas = {a["PixelAnomaly"]["Color"]: a["PixelAnomaly"]["TotalPercentageArea"] for a in found["Anomalies"]}
    assert abs(sum(areas.values()) - 1) < 1e-5
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    assert {f"#{r:02X}{g:02X}{bl:02X}" for r, g, bl in colors} <= set(areas)
    for (r, g, bl), count in zip(colors, counts, strict=True):
        assert abs(areas[f"#{r:02X}{g:02X}{bl:02X}"] - count / len(pixels)) < 1e-6


def png(width: int, height: int) -> bytes:
    return encoded(width, height, "PNG")


def encoded(width: int, height: int, kind: str) -> bytes:
    from io import BytesIO

    import numpy as np
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@case("StartModel", "ConflictException")
def start_an_untrained_model(b: Bench) -> None:
    b.make("train")
    for version, status in enumerate(("TRAINING_FAILED", "TRAINING", "DELETING"), 1):
        store_model(b, version, status)
        conflict(lambda version=version: b.api.start_model(ProjectName=b.project, ModelVersion=str(version), MinInferenceUnits=1),
                 "MODEL")  # fmt: skip


@case("StartModel", "ValidationException")
def start_with_fewer_units_than_the_least(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    refused(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=3, MaxInferenceUnits=2),
            "ValidationException", 400)  # fmt: skip


@case("StartModel", "ServiceQuotaExceededException")
def too_many_units(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    quota(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=6), "quota_units")


def test_a_model_whose_files_are_gone_fails_to_start_and_says_so(bench: Bench) -> None:
    bench.make("train")
    store_model(bench, 1)
    bench.api.start_model(ProjectName=bench.project, ModelVersion="1", MinInferenceUnits=1)
    assert wait_for(bench.status, lambda s: s != "STARTING_HOSTING") == "HOSTING_FAILED"
    found = bench.api.describe_model(ProjectName=bench.project, ModelVersion="1")["ModelDescription"]
    assert "bundle" in found["StatusMessage"]
    assert str(bench.server.data) not in found["StatusMessage"]
    bench.api.delete_model(ProjectName=bench.project, ModelVersion="1")


@case("StopModel", "ConflictException")
def stop_a_model_that_is_not_hosted(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    conflict(lambda: b.api.stop_model(ProjectName=b.project, ModelVersion="1"), "MODEL")


@case("DetectAnomalies", "ConflictException")
def ask_a_model_that_is_not_hosted(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    conflict(lambda: detect(b, png(64, 64)), "MODEL")


# --- packaging


@case("StartModelPackagingJob")
@case("DescribeModelPackagingJob")
@case("ListModelPackagingJobs")
def packaging_jobs(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)  # without files: the jobs fail, which is what this case wants to see told
    jobs = [
        b.api.start_model_packaging_job(ProjectName=b.project, ModelVersion="latest", Description="a job",
                                        Configuration=package_config(f"c.{b.project}", ComponentVersion=f"1.0.{i}"))["JobName"]
        for i in range(3)
    ]  # fmt: skip
    assert len(set(jobs)) == 3
    described = b.api.describe_model_packaging_job(ProjectName=b.project, JobName=jobs[0])["ModelPackagingDescription"]
    assert (described["ModelVersion"], described["ModelPackagingMethod"]) == ("1", "Greengrass")
    assert described["ModelPackagingJobDescription"] == "a job"
    assert described["ModelPackagingConfiguration"]["Greengrass"]["ComponentVersion"] == "1.0.0"
    pages = list(b.api.get_paginator("list_model_packaging_jobs").paginate(ProjectName=b.project, PaginationConfig={"PageSize": 2}))
    assert [j["JobName"] for p in pages for j in p["ModelPackagingJobs"]] == jobs[::-1]
    assert all("StatusMessage" in j and str(uuid.UUID(j["JobName"])) == j["JobName"] for p in pages for j in p["ModelPackagingJobs"])

    def status() -> str:
        return b.api.describe_model_packaging_job(ProjectName=b.project, JobName=jobs[0])["ModelPackagingDescription"]["Status"]

    assert wait_for(status, lambda s: s not in ("CREATED", "RUNNING")) == "FAILED"
    failed = b.api.describe_model_packaging_job(ProjectName=b.project, JobName=jobs[0])["ModelPackagingDescription"]
    assert "version 1 is gone" in failed["StatusMessage"]
    # A failed job gives its component's name and version back.
    b.api.start_model_packaging_job(ProjectName=b.project, ModelVersion="1",
                                    Configuration=package_config(f"c.{b.project}", ComponentVersion="1.0.0"))  # fmt: skip


def test_a_training_that_waits_for_its_dataset_holds_nobody_up(bench: Bench) -> None:
    busy_dataset(bench)
    store_model(bench, 5)
    waiting = bench.api.create_model(ProjectName=bench.project, **train_config())["ModelMetadata"]["ModelVersion"]
    job = bench.api.start_model_packaging_job(ProjectName=bench.project, ModelVersion="5", Configuration=package_config(bench.project))

    def packaging() -> str:
        found = bench.api.describe_model_packaging_job(ProjectName=bench.project, JobName=job["JobName"])
        return str(found["ModelPackagingDescription"]["Status"])

    assert wait_for(packaging, lambda s: s not in ("CREATED", "RUNNING")) == "FAILED"  # its model has no files
    assert bench.status(waiting) == "TRAINING"
    conflict(lambda: bench.api.delete_model(ProjectName=bench.project, ModelVersion=waiting), "MODEL")
    admin = JobAdmin(bench.server.store())
    training = next(j for j in admin.list() if (j["kind"], j["subject"]) == ("train", f"{bench.project}/{waiting}"))
    assert admin.cancel(training["job"], "Ada")["state"] == "CANCELLED"
    described = bench.api.describe_model(ProjectName=bench.project, ModelVersion=waiting)["ModelDescription"]
    assert (described["Status"], described["StatusMessage"]) == ("TRAINING_FAILED", "cancelled by Ada")
    bench.api.delete_model(ProjectName=bench.project, ModelVersion=waiting)
    admin.store.close()


@case("DeleteModel", "ConflictException")
@case("DeleteDataset", "ConflictException")
def delete_what_is_in_use(b: Bench) -> None:
    busy_dataset(b)
    store_model(b, 5)
    store_packaging(b, 5)
    conflict(lambda: b.api.delete_model(ProjectName=b.project, ModelVersion="5"), "MODEL")
    assert b.status("5") == "TRAINED"
    b.api.create_model(ProjectName=b.project, **train_config())  # it waits for the dataset that is busy
    b.api.create_dataset(ProjectName=b.project, DatasetType="test")
    conflict(lambda: b.api.delete_dataset(ProjectName=b.project, DatasetType="test"), "DATASET")
    conflict(lambda: b.api.delete_project(ProjectName=b.project), "PROJECT")


def store_packaging(b: Bench, version: int) -> None:
    """A packaging that runs, without its job."""
    import sqlalchemy as sa

    from linewatch.control_plane.store.schema import packagings, projects

    store = b.server.store()
    with store.write() as c:
        project_id = c.execute(sa.select(projects.c.id).where(projects.c.name == b.project)).scalar()
        c.execute(sa.insert(packagings).values(project_id=project_id, name="running", model_version=version, configuration={},
                                               status="RUNNING", created=1.0, updated=1.0))  # fmt: skip
    store.close()


@case("StartModelPackagingJob", "ConflictException")
def packaging_what_is_there_or_cannot_be(b: Bench) -> None:
    b.make("train")
    store_model(b, 1, "TRAINING_FAILED")
    configuration = package_config(f"c.{b.project}")
    conflict(lambda: b.api.start_model_packaging_job(ProjectName=b.project, ModelVersion="1", Configuration=configuration), "MODEL")
    b.model(version=2)
    start = {"ProjectName": b.project, "ModelVersion": "2"}
    b.api.start_model_packaging_job(**start, JobName="j", Configuration=configuration)
    conflict(lambda: b.api.start_model_packaging_job(**start, JobName="j", Configuration=package_config("other")), "MODEL_PACKAGE_JOB")
    conflict(lambda: b.api.start_model_packaging_job(**start, Configuration=configuration), "MODEL_PACKAGE_JOB")


@case("StartModelPackagingJob", "ValidationException")
def packaging_for_a_target_that_is_none(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    for extra in ({"TargetDevice": "jetson_xavier"}, {"CompilerOptions": '{"what": 1}'},
                  {"TargetPlatform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"}}):  # fmt: skip
        configuration = package_config("c", **extra)
        refused(lambda configuration=configuration: b.api.start_model_packaging_job(
            ProjectName=b.project, ModelVersion="1", Configuration=configuration), "ValidationException", 400)  # fmt: skip


@case("StartModelPackagingJob", "ServiceQuotaExceededException")
def too_many_packagings(b: Bench) -> None:
    import sqlalchemy as sa

    from linewatch.control_plane.store.schema import packagings, projects

    client = b.server.client(b.server.credential())
    b.make("train")
    store_model(b, 1)
    store = b.server.store()
    with store.write() as c:
        project_id = c.execute(sa.select(projects.c.id).where(projects.c.name == b.project)).scalar()
        rows = [{"project_id": project_id, "name": f"j{i}", "model_version": 1, "configuration": {}, "status": "CREATED",
                 "created": 1.0, "updated": 1.0} for i in range(5)]  # fmt: skip
        c.execute(sa.insert(packagings), rows)
    try:
        quota(lambda: client.start_model_packaging_job(ProjectName=b.project, ModelVersion="1", Configuration=package_config("c")),
              "quota_packagings")  # fmt: skip
    finally:
        with store.write() as c:
            c.execute(sa.delete(packagings).where(packagings.c.project_id == project_id))
        store.close()


# --- tags


@case("TagResource")
@case("UntagResource")
@case("ListTagsForResource")
def tags(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": "Straße 1", "Value": ""}, {"Key": "b", "Value": "1"}])
    b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": "b", "Value": "2"}])
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == [{"Key": "Straße 1", "Value": ""}, {"Key": "b", "Value": "2"}]
    b.api.untag_resource(ResourceArn=b.arn(), TagKeys=["Straße 1", "never"])
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == [{"Key": "b", "Value": "2"}]


@case("TagResource", "ServiceQuotaExceededException")
def too_many_tags(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    quota(lambda: b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": str(i), "Value": ""} for i in range(51)]), "quota_tags")
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == []


@case("TagResource", "ValidationException")
@case("UntagResource", "ValidationException")
@case("ListTagsForResource", "ValidationException")
def tags_of_what_is_no_model(b: Bench) -> None:
    arn = f"arn:aws:lookoutvision:{REGION}:{ACCOUNT}:project/x"
    refused(lambda: b.api.tag_resource(ResourceArn=arn, Tags=[{"Key": "a", "Value": ""}]), "ValidationException", 400)
    refused(lambda: b.api.untag_resource(ResourceArn=arn, TagKeys=["a"]), "ValidationException", 400)
    refused(lambda: b.api.list_tags_for_resource(ResourceArn=arn), "ValidationException", 400)


@pytest.mark.parametrize(("operation", "error", "function"), [(o, e, f) for (o, e), fs in CASES.items() for f in fs],
                         ids=lambda v: getattr(v, "__name__", v))  # fmt: skip
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)


# --- errors that every operation has


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
