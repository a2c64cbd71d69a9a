"""The queue of jobs, a table: adding, claiming, and what becomes of a job."""

import os
import secrets
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.anomaly_model.files import replace_file
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import Row, jobs, models
from linewatch.control_plane.store.transitions import advance

BACKGROUND_KINDS = ("import", "update", "purge", "distribute", "delete_model")
WORKER_KINDS = ("train", "package")


def add_job(connection: Connection, kind: str, subject_id: int, spec: dict[str, Any]) -> int:
    """Put a job in the queue, in the transaction of the change that asks for it; returns its id.

    Args:
        connection: of that transaction.
        kind: of the job: one of BACKGROUND_KINDS or WORKER_KINDS.
        subject_id: number of the dataset, model or packaging that it is for.
        spec: what it needs to know, as JSON can say it.
    """
    query = sa.insert(jobs).values(kind=kind, subject_id=subject_id, state="QUEUED", spec=spec, created=now())
    return int(connection.execute(query.returning(jobs.c.id)).scalar_one())


def store_changes(folder: Path, data: bytes) -> str:
    """Keep a call's lines on disk for the job that will apply them; returns the file's name below `changes`."""
    place = folder / "changes"
    place.mkdir(exist_ok=True)
    name = f"{os.getpid()}-{secrets.token_hex(8)}.jsonl"
    replace_file(place / name, data)
    return name


def queued(connection: Connection, kinds: tuple[str, ...]) -> list[Row]:
    """Jobs that wait, oldest first."""
    query = sa.select(jobs).where(jobs.c.state == "QUEUED", jobs.c.kind.in_(kinds))
    return list(connection.execute(query.order_by(jobs.c.id)).all())


def running(connection: Connection, kinds: tuple[str, ...]) -> list[Row]:
    """Jobs that were claimed and have not ended."""
    return list(connection.execute(sa.select(jobs).where(jobs.c.state == "RUNNING", jobs.c.kind.in_(kinds))).all())


def claim(connection: Connection, job: Row, lease: float) -> Row | None:
    """Take a job for one more attempt; None when somebody else has it, or it was cancelled."""
    moment = now()
    if not advance(connection, "job", job.id, "claim", attempt=job.attempt + 1, lease=moment + lease, heartbeat=moment):
        return None
    return connection.execute(sa.select(jobs).where(jobs.c.id == job.id)).one()


def record_heartbeat(connection: Connection, job: Row, heartbeat: float, lease: float, message: str) -> None:
    """Note a heartbeat of an attempt that still has the job.

    Args:
        connection: of a writing transaction.
        job: its row, as the attempt claimed it.
        heartbeat: epoch seconds of the last one.
        lease: seconds for which the attempt is then believed to be alive.
        message: how far it is, for people.
    """
    mine = sa.and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == "RUNNING")
    connection.execute(sa.update(jobs).where(mine).values(heartbeat=heartbeat, lease=heartbeat + lease, message=message))


def waiting_training(connection: Connection, project_id: int) -> int | None:
    """Version of a project's model whose training has not begun: it has no copy of the datasets yet."""
    query = sa.select(models.c.version).select_from(models.join(jobs, jobs.c.subject_id == models.c.id)).where(
        models.c.project_id == project_id, jobs.c.kind == "train", jobs.c.state == "QUEUED", jobs.c.attempt == 0
    )  # fmt: skip
    return connection.execute(query.limit(1)).scalar()
