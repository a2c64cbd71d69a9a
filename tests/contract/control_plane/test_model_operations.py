"""Operations on models: making, describing, listing and deleting them."""

import secrets

import pytest

from linewatch.control_plane.jobs.admin import JobAdmin
from linewatch.control_plane.wire.service_model import operations
from tests.contract.control_plane.cases import (
    Case,
    busy_dataset,
    case,
    cases_of,
    conflict,
    from_manifest,
    may_read,
    package_config,
    quota,
    refused,
    remove_models,
    store_model,
    train_config,
)
from tests.contract.control_plane.conftest import Bench
from tests.server import REGION, wait_for


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


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
