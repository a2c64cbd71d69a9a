"""Operations on packaging jobs."""

import uuid

import pytest

from tests.contract.control_plane.cases import Case, case, cases_of, conflict, package_config, quota, refused, store_model
from tests.contract.control_plane.conftest import Bench
from tests.server import wait_for


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


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
