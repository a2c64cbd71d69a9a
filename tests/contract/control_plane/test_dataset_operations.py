"""Operations on datasets and their entries."""

import json
import secrets
from typing import Any

import pytest

from tests.contract.control_plane.cases import (
    PICTURE,
    Case,
    busy_dataset,
    case,
    cases_of,
    conflict,
    content,
    from_manifest,
    may_read,
    picture_in_a_bucket,
    refused,
)
from tests.contract.control_plane.conftest import Bench, entry, manifest
from tests.server import REGION


@case("CreateDataset")
def create_an_empty_dataset(b: Bench) -> None:
    b.make()
    made = b.api.create_dataset(ProjectName=b.project, DatasetType="test")["DatasetMetadata"]
    assert (made["DatasetType"], made["Status"], made["StatusMessage"]) == ("test", "CREATE_COMPLETE", "")


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


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
