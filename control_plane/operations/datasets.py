"""Datasets and their entries. What takes time becomes a job; the status says how far it is."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import ConflictError, ValidationError
from linewatch.control_plane.operations.lookup import dataset_of, find_dataset, find_project
from linewatch.control_plane.operations.paging import read_page
from linewatch.control_plane.rights import CALLER
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.job_queue import add_job, store_changes, waiting_training
from linewatch.control_plane.store.schema import Row, datasets, entries
from linewatch.control_plane.store.transitions import advance
from linewatch.control_plane.wire.requests import Params


def create_dataset(call: Call, connection: Connection, params: Params) -> OperationResult:
    """CreateDataset: empty at once, or from a manifest in the background.

    Raises:
        ConflictError: the project has such a dataset.
        ValidationError: the source is none.
        AccessDeniedError: the caller may not read the manifest.
    """
    name, kind = params["ProjectName"], params["DatasetType"]
    project = find_project(connection, call.scope, name)
    if dataset_of(connection, project.id, kind) is not None:
        raise ConflictError(f"The project {name} has a {kind} dataset already", f"{name}/{kind}", "DATASET")
    source = params.get("DatasetSource", {}).get("GroundTruthManifest", {}).get("S3Object")
    if "DatasetSource" in params and source is None:
        raise ValidationError("DatasetSource holds no GroundTruthManifest with an S3Object; leave it out for an empty dataset")
    if source is not None:
        call.require_object("s3:GetObject", source["Bucket"], source["Key"])
        if "VersionId" in source:
            call.require_object("s3:GetObjectVersion", source["Bucket"], source["Key"])
    moment = now()
    row = connection.execute(
        sa.insert(datasets)
        .values(project_id=project.id, kind=kind, status="CREATE_IN_PROGRESS" if source else "CREATE_COMPLETE",
                created=moment, updated=moment)
        .returning(datasets)
    ).one()  # fmt: skip
    if source is not None:
        spec = {
            "bucket": source["Bucket"], "key": source["Key"], "version": source.get("VersionId"), CALLER: call.identity.access_key,
        }  # fmt: skip
        add_job(connection, "import", row.id, spec)
    return {"DatasetMetadata": describe_metadata(row)}


def describe_dataset(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeDataset."""
    row = find_dataset(connection, call.scope, params["ProjectName"], params["DatasetType"])
    return {
        "DatasetDescription": {
            "ProjectName": params["ProjectName"],
            "DatasetType": row.kind,
            "CreationTimestamp": row.created,
            "LastUpdatedTimestamp": row.updated,
            "Status": row.status,
            "StatusMessage": row.message,
            "ImageStats": image_stats(connection, row.id),
        }
    }


def image_stats(connection: Connection, dataset_id: int) -> dict[str, int]:
    """Number of pictures: all, labelled, and of each class."""
    query = sa.select(entries.c.anomaly_class, sa.func.count()).where(entries.c.dataset_id == dataset_id)
    counts = {cls: int(n) for cls, n in connection.execute(query.group_by(entries.c.anomaly_class)).all()}
    normal, anomaly = counts.get("normal", 0), counts.get("anomaly", 0)
    return {"Total": sum(counts.values()), "Labeled": normal + anomaly, "Normal": normal, "Anomaly": anomaly}


def delete_dataset(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DeleteDataset: gone at once for everybody; its entries are removed in the background.

    Raises:
        ConflictError: the dataset is busy, or a training waits for it.
    """
    name, kind = params["ProjectName"], params["DatasetType"]
    row = find_dataset(connection, call.scope, name, kind)
    version = waiting_training(connection, row.project_id)
    if version is not None:
        raise ConflictError(
            f"The model version {version} of {name} waits to be trained on its datasets; delete them when its training has begun",
            f"{name}/{kind}", "DATASET",
        )  # fmt: skip
    if not release(connection, row):
        raise ConflictError(f"The {kind} dataset of {name} is {row.status}; try again when that is done", f"{name}/{kind}", "DATASET")
    return {}


def release(connection: Connection, row: Row) -> bool:
    """Take a dataset out of its project, so that another may take its place; False when it is busy."""
    if not advance(connection, "dataset", row.id, "delete", kind=None):
        return False
    add_job(connection, "purge", row.id, {})
    return True


def list_dataset_entries(call: Call, connection: Connection, params: Params) -> OperationResult:
    """ListDatasetEntries, in the order in which they were added. The filters combine."""
    row = find_dataset(connection, call.scope, params["ProjectName"], params["DatasetType"])
    filters = {k: params[k] for k in ("Labeled", "AnomalyClass", "BeforeCreationDate", "AfterCreationDate", "SourceRefContains")
               if k in params}  # fmt: skip
    listing = ["entries", row.id, filters]
    query = sa.select(entries.c.id, entries.c.line).where(entries.c.dataset_id == row.id)
    if "Labeled" in filters:
        wanted = entries.c.anomaly_class
        query = query.where(wanted.is_not(None) if filters["Labeled"] else wanted.is_(None))
    if "AnomalyClass" in filters:
        query = query.where(entries.c.anomaly_class == filters["AnomalyClass"])
    if "BeforeCreationDate" in filters:
        query = query.where(entries.c.created < filters["BeforeCreationDate"])
    if "AfterCreationDate" in filters:
        query = query.where(entries.c.created > filters["AfterCreationDate"])
    if "SourceRefContains" in filters:
        query = query.where(entries.c.source_ref.contains(filters["SourceRefContains"], autoescape=True))
    rows, token = read_page(call, connection, params, listing, query, entries.c.id)
    return {"DatasetEntries": [r.line for r in rows], "NextToken": token}


def update_dataset_entries(call: Call, connection: Connection, params: Params) -> OperationResult:
    """UpdateDatasetEntries: all lines or none, in the background.

    Raises:
        ConflictError: the dataset is busy.
    """
    name, kind = params["ProjectName"], params["DatasetType"]
    row = find_dataset(connection, call.scope, name, kind)
    if not advance(connection, "dataset", row.id, "update"):
        raise ConflictError(
            f"The {kind} dataset of {name} is {row.status}; it takes entries when it is complete", f"{name}/{kind}", "DATASET"
        )
    changes = store_changes(call.services.settings.folder, params["Changes"])
    add_job(connection, "update", row.id, {"changes": changes, CALLER: call.identity.access_key})
    return {"Status": "UPDATE_IN_PROGRESS"}


def describe_metadata(row: Row) -> OperationResult:
    """DatasetMetadata. The message is always there: scripts read it without looking."""
    return {
        "DatasetType": row.kind, "CreationTimestamp": row.created, "Status": row.status, "StatusMessage": row.message,
    }  # fmt: skip


def both_datasets(connection: Connection, project: Row) -> tuple[Row, Row | None]:
    """Training dataset, and test dataset if there is one.

    Raises:
        ValidationError: there is no train dataset.
        ConflictError: the train dataset is CREATE_FAILED.
    """
    train = dataset_of(connection, project.id, "train")
    if train is None:
        raise ValidationError(f"The project {project.name} has no train dataset; make one with CreateDataset first")
    if train.status == "CREATE_FAILED":
        raise ConflictError(
            f"The train dataset of {project.name} is CREATE_FAILED ({train.message}); delete it and make it again",
            f"{project.name}/train", "DATASET",
        )  # fmt: skip
    return train, dataset_of(connection, project.id, "test")


def training_lines(connection: Connection, dataset_id: int) -> Iterator[str]:
    """Lines of a dataset's labelled pictures, in the order in which they were added."""
    labelled = sa.and_(entries.c.dataset_id == dataset_id, entries.c.anomaly_class.is_not(None))
    query = sa.select(entries.c.line).where(labelled).order_by(entries.c.id)
    # Of the statement, not of the connection, which would make cursors of what follows, too.
    return (line for (line,) in connection.execute(query.execution_options(yield_per=1000)))
