"""The table of cases, one or more for each operation and error, and what several groups of cases work with."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from linewatch.control_plane.access.policy import Policy, Statement
from tests.contract.control_plane.conftest import Bench
from tests.server import REGION

Case = Callable[[Bench], None]

SUCCESS = "success"

CASES: dict[tuple[str, str], dict[str, Case]] = {}
"""(operation, error) to its cases by name."""


def case(operation: str, error: str = SUCCESS) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES.setdefault((operation, error), {})[function.__name__] = function
        return function

    return add


def cases_of(module: str) -> list[tuple[str, str, Case]]:
    """The cases of a test module, for its `test_case`."""
    return [(o, e, case) for (o, e), found in CASES.items() for case in found.values() if case.__module__ == module]


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


PICTURE = b"no picture, but that is not looked at here"


def picture_in_a_bucket(b: Bench) -> str:
    bucket = f"pictures-{secrets.token_hex(4)}"
    b.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    b.s3.put_object(Bucket=bucket, Key="one.png", Body=PICTURE)
    return f"s3://{bucket}/one.png"


def content(b: Bench, address: str) -> bytes:
    _, _, bucket, key = address.split("/", 3)
    return bytes(b.s3.get_object(Bucket=bucket, Key=key)["Body"].read())


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


def may_read(b: Bench, *resources: str) -> Any:
    """A client that may do all but read other objects than these."""
    statements = [
        Statement("Allow", ["lookoutvision:*", "s3:PutObject"]), Statement("Allow", "s3:GetObject", list(resources)),
    ]  # fmt: skip
    return b.server.client(b.server.credential(Policy(statements)))


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


def detect(b: Bench, body: bytes, kind: str = "image/png", version: str = "1") -> dict[str, Any]:
    answer = b.api.detect_anomalies(ProjectName=b.project, ModelVersion=version, Body=body, ContentType=kind)
    return dict(answer["DetectAnomalyResult"])


def png(width: int, height: int) -> bytes:
    return encoded(width, height, "PNG")


def encoded(width: int, height: int, kind: str) -> bytes:
    from io import BytesIO

    import numpy as np
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()
