"""Finding what a call names, or answering that it is not there."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import NotFoundError
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.store.schema import Row, datasets, models, packagings, projects


def count(connection: Connection, source: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> int:
    """Number of rows that keep all conditions."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(source).where(*conditions)).scalar_one())


def owned(scope: Scope) -> sa.ColumnElement[bool]:
    """The condition that a project belongs to an account and region."""
    return sa.and_(projects.c.account == scope.account, projects.c.region == scope.region)


def project_of(connection: Connection, scope: Scope, name: str) -> Row | None:
    """A project, or None."""
    return connection.execute(sa.select(projects).where(owned(scope), projects.c.name == name)).first()


def find_project(connection: Connection, scope: Scope, name: str) -> Row:
    """A project.

    Raises:
        NotFoundError: the caller's account has no such project in its region.
    """
    row = project_of(connection, scope, name)
    if row is None:
        raise NotFoundError(f"The project {name} was not found in {scope.region}", name, "PROJECT")
    return row


def find_dataset(connection: Connection, scope: Scope, project: str, kind: str) -> Row:
    """A project's train or test dataset.

    Args:
        connection: to read with.
        scope: of the caller.
        project: name.
        kind: train or test.

    Raises:
        NotFoundError: there is no such project, or it has no such dataset.
    """
    parent = find_project(connection, scope, project)
    row = dataset_of(connection, parent.id, kind)
    if row is None:
        raise NotFoundError(f"The project {project} has no {kind} dataset", f"{project}/{kind}", "DATASET")
    return row


def dataset_of(connection: Connection, project_id: int, kind: str) -> Row | None:
    """A project's dataset, or None."""
    query = sa.select(datasets).where(datasets.c.project_id == project_id, datasets.c.kind == kind)
    return connection.execute(query).first()


def find_model(connection: Connection, scope: Scope, project: str, version: str) -> Row:
    """A model version; `latest` is the highest number.

    Args:
        connection: to read with.
        scope: of the caller.
        project: name.
        version: a number, or latest.

    Raises:
        NotFoundError: there is no such project, or it has no such version.
    """
    parent = find_project(connection, scope, project)
    query = sa.select(models).where(models.c.project_id == parent.id)
    if version == "latest":
        query = query.where(models.c.status != "DELETING").order_by(models.c.version.desc()).limit(1)
    else:
        query = query.where(models.c.version == int(version))
    row = connection.execute(query).first() if version == "latest" or int(version) < 2**31 else None
    if row is None:
        raise NotFoundError(f"The model {project} version {version} was not found", f"{project}/{version}", "MODEL")
    return row


def find_packaging(connection: Connection, scope: Scope, project: str, name: str) -> Row:
    """A packaging job.

    Args:
        connection: to read with.
        scope: of the caller.
        project: name.
        name: of the job.

    Raises:
        NotFoundError: there is no such project, or it has no such job.
    """
    parent = find_project(connection, scope, project)
    query = sa.select(packagings).where(packagings.c.project_id == parent.id, packagings.c.name == name)
    row = connection.execute(query).first()
    if row is None:
        raise NotFoundError(f"The model packaging job {name} was not found in {project}", name, "MODEL_PACKAGE_JOB")
    return row
