"""Projects."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import ConflictError, QuotaError
from linewatch.control_plane.operations.datasets import describe_metadata, release
from linewatch.control_plane.operations.lookup import count, find_project, owned, project_of
from linewatch.control_plane.operations.paging import read_page
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import Row, datasets, entries, models, projects
from linewatch.control_plane.wire.requests import Params


def create_project(call: Call, connection: Connection, params: Params) -> OperationResult:
    """CreateProject.

    Raises:
        ConflictError: there is one of this name.
        QuotaError: there are too many.
    """
    name, scope, quota = params["ProjectName"], call.scope, call.services.settings.quota_projects
    if project_of(connection, scope, name) is not None:
        raise ConflictError(f"The project {name} exists already", name, "PROJECT")
    if count(connection, projects, owned(scope)) >= quota:
        raise QuotaError(f"There are {quota} projects, the most that quota_projects allows", "quota_projects", name, "PROJECT")
    row = connection.execute(
        sa.insert(projects).values(account=scope.account, region=scope.region, name=name, created=now()).returning(projects)
    ).one()
    return {"ProjectMetadata": _metadata(call, row)}


def describe_project(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeProject."""
    row = find_project(connection, call.scope, params["ProjectName"])
    query = sa.select(datasets).where(datasets.c.project_id == row.id, datasets.c.kind.is_not(None))
    found = connection.execute(query.order_by(datasets.c.kind.desc())).all()
    return {"ProjectDescription": {**_metadata(call, row), "Datasets": [describe_metadata(d) for d in found]}}


def list_projects(call: Call, connection: Connection, params: Params) -> OperationResult:
    """ListProjects, by name."""
    scope, query = call.scope, sa.select(projects).where(owned(call.scope))
    listing = ["projects", scope.account, scope.region]
    rows, token = read_page(call, connection, params, listing, query, projects.c.name)
    return {"Projects": [_metadata(call, row) for row in rows], "NextToken": token}


def delete_project(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DeleteProject. Models go first; empty datasets go with it, others where the settings say so.

    Raises:
        NotFoundError: there is no such project.
        ConflictError: it has models, or datasets with entries.
    """
    name = params["ProjectName"]
    row = find_project(connection, call.scope, name)
    left = connection.execute(sa.select(models.c.version, models.c.status).where(models.c.project_id == row.id)).all()
    if left:
        shown = ", ".join(str(m.version) for m in left[:10])
        raise ConflictError(f"The project {name} has models (version {shown}); delete them first", name, "PROJECT")
    found = connection.execute(
        sa.select(datasets).where(datasets.c.project_id == row.id, datasets.c.kind.is_not(None))
    ).all()
    for dataset in found:
        has_entries = connection.execute(sa.select(entries.c.id).where(entries.c.dataset_id == dataset.id).limit(1)).first()
        if (has_entries and not call.services.settings.delete_cascades) or dataset.status.endswith("_IN_PROGRESS"):
            raise ConflictError(
                f"The project {name} has a {dataset.kind} dataset ({dataset.status}); delete it first with DeleteDataset",
                name, "PROJECT",
            )  # fmt: skip
        release(connection, dataset)
    connection.execute(sa.delete(projects).where(projects.c.id == row.id))
    return {"ProjectArn": call.scope.project(name)}


def _metadata(call: Call, row: Row) -> OperationResult:
    return {"ProjectArn": call.scope.project(row.name), "ProjectName": row.name, "CreationTimestamp": row.created}
