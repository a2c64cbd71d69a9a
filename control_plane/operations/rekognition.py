"""The calls of Rekognition that scripts made on their datasets: DistributeDatasetEntries, and what hands out the ARNs."""


import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import ConflictError, InvalidPageTokenError, NotFoundError, ValidationError
from linewatch.control_plane.identifiers import parse_dataset_arn
from linewatch.control_plane.operations.datasets import image_stats
from linewatch.control_plane.operations.lookup import count, dataset_of, owned, project_of
from linewatch.control_plane.operations.paging import read_page
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.job_queue import add_job
from linewatch.control_plane.store.schema import Row, datasets, entries, projects
from linewatch.control_plane.store.transitions import advance
from linewatch.control_plane.wire.requests import Params

_STATUS = {
    "UPDATE_FAILED_ROLLBACK_IN_PROGRESS": "UPDATE_IN_PROGRESS",
    "UPDATE_FAILED_ROLLBACK_COMPLETE": "UPDATE_FAILED",
}
"""What Rekognition calls our statuses. Those that are not here have the same name there."""
_LEAST_ENTRIES = 5


def distribute_dataset_entries(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DistributeDatasetEntries: a fifth of the training entries moves to the empty test dataset, in the background.

    Raises:
        NotFoundError: there is no such dataset.
        ValidationError: the two are not an empty test dataset and a training dataset of one project.
        ConflictError: a dataset is busy.
    """
    found = [_find(call, connection, item["Arn"]) for item in params["Datasets"]]
    (first, project), (second, other) = found
    if project.id != other.id:
        raise ValidationError("the two datasets belong to different projects; give both datasets of one")
    if first.id == second.id:
        raise ValidationError("both ARNs are those of one dataset; give the training and the test dataset of the project")
    train, test = (first, second) if first.kind == "train" else (second, first)
    if count(connection, entries, entries.c.dataset_id == train.id) < _LEAST_ENTRIES:
        raise ValidationError(
            f"the training dataset has fewer than {_LEAST_ENTRIES} entries, of which a fifth is not one; add entries first"
        )
    if connection.execute(sa.select(entries.c.id).where(entries.c.dataset_id == test.id).limit(1)).first():
        raise ValidationError("the test dataset has entries; only an empty one is filled. Delete it and make it again")
    for row in (train, test):
        if not advance(connection, "dataset", row.id, "update"):
            raise ConflictError(f"the {row.kind} dataset is {row.status}; try again when that is done", row.kind, "DATASET")
    add_job(connection, "distribute", train.id, {"test": test.id})
    return {}


def _find(call: Call, connection: Connection, arn: str) -> tuple[Row, Row]:
    """Dataset and project of an ARN."""
    missing = NotFoundError(f"The dataset {arn} was not found", arn, "DATASET")
    parsed = parse_dataset_arn(arn)
    if parsed is None or parsed[0] != call.scope:
        raise missing
    scope, name, kind, created = parsed
    project = project_of(connection, scope, name)
    row = dataset_of(connection, project.id, kind) if project else None
    if project is None or row is None or int(row.created * 1000) != created:
        raise missing
    return row, project


def describe_dataset(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeDataset."""
    row, _ = _find(call, connection, params["DatasetArn"])
    stats = image_stats(connection, row.id)
    labels = sum(stats[kind] > 0 for kind in ("Normal", "Anomaly"))
    return {
        "DatasetDescription": {
            "CreationTimestamp": row.created,
            "LastUpdatedTimestamp": row.updated,
            **_status(row),
            "DatasetStats": {
                "LabeledEntries": stats["Labeled"], "TotalEntries": stats["Total"], "TotalLabels": labels, "ErrorEntries": 0,
            },
        }
    }  # fmt: skip


def _status(row: Row) -> OperationResult:
    status = _STATUS.get(row.status, row.status)
    code = "CLIENT_ERROR" if status.endswith("FAILED") else "SUCCESS"
    return {"Status": status, "StatusMessage": row.message, "StatusMessageCode": code}


def describe_projects(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeProjects: ours, with the ARNs by which Rekognition's calls know their datasets.

    Raises:
        InvalidPageTokenError: not a token of this list.
    """
    scope, query = call.scope, sa.select(projects).where(owned(call.scope))
    if "ProjectNames" in params:
        query = query.where(projects.c.name.in_(params["ProjectNames"]))
    if "CUSTOM_LABELS" not in params.get("Features", ["CUSTOM_LABELS"]):
        query = query.where(sa.false())
    listing = ["rekognition", scope.account, scope.region, params.get("ProjectNames"), params.get("Features")]
    try:
        shown, token = read_page(call, connection, params, listing, query, projects.c.name)
    except ValidationError as error:
        raise InvalidPageTokenError(str(error)) from None
    theirs = sa.and_(datasets.c.project_id.in_([r.id for r in shown]), datasets.c.kind.is_not(None))
    below: dict[int, list[OperationResult]] = {}
    names = {r.id: r.name for r in shown}
    for row in connection.execute(sa.select(datasets).where(theirs).order_by(datasets.c.kind.desc())):
        arn = scope.rekognition_dataset(names[row.project_id], row.kind, row.created)
        below.setdefault(row.project_id, []).append(
            {"CreationTimestamp": row.created, "DatasetType": row.kind.upper(), "DatasetArn": arn, **_status(row)}
        )
    return {
        "ProjectDescriptions": [
            {"ProjectArn": scope.rekognition_project(r.name, r.created), "CreationTimestamp": r.created, "Status": "CREATED",
             "Datasets": below.get(r.id, []), "Feature": "CUSTOM_LABELS"}
            for r in shown
        ],
        "NextToken": token,
    }  # fmt: skip
