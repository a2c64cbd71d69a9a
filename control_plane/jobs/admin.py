"""What an operator does with jobs: list, look, cancel. Works on the store, whether or not the server runs.

A running server sees a cancelled job within a second, and ends its process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.anomaly_model.child_job import Outcome
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.jobs.preparation import apply_outcome
from linewatch.control_plane.store.database import Store, now
from linewatch.control_plane.store.job_queue import WORKER_KINDS
from linewatch.control_plane.store.schema import Row, datasets, job_events, jobs, models, packagings, projects
from linewatch.control_plane.store.transitions import advance

_LOG_LINES, _LOG_BYTES = 20, 64 << 10
_DETAILS = {"attempt", "losses", "message", "log", "finished"}


class JobError(LinewatchError):
    """There is no such job, or it cannot be cancelled."""


@dataclass(frozen=True, slots=True)
class JobAdmin:
    """Jobs of a store."""

    store: Store

    def list(self, everything: bool = False) -> list[dict[str, Any]]:
        """Jobs that are not finished, oldest first.

        Args:
            everything: finished ones too.
        """
        query = sa.select(jobs).order_by(jobs.c.id)
        if not everything:
            query = query.where(jobs.c.state.in_(("QUEUED", "RUNNING")))
        with self.store.read() as connection:
            return [_summary(connection, row) for row in connection.execute(query).all()]

    def show(self, job_id: int) -> dict[str, Any]:
        """A job with its steps and the end of its log.

        Raises:
            JobError: there is no such job.
        """
        with self.store.read() as connection:
            row = _find(connection, job_id)
            steps = connection.execute(sa.select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id)).all()
            return {
                **_summary(connection, row), **{name: getattr(row, name) for name in sorted(_DETAILS)},
                "steps": [{"at": s.at, "from": s.before, "to": s.after, "note": s.note} for s in steps],
                "log_end": _tail(Path(row.log)) if row.log else [],
            }  # fmt: skip

    def cancel(self, job_id: int, who: str) -> dict[str, Any]:
        """Cancel a training or packaging: its model becomes TRAINING_FAILED, its packaging job FAILED, and both say by whom.

        Args:
            job_id: which one.
            who: for the status message.

        Raises:
            JobError: there is no such job, it is no training or packaging, or it has ended already.
        """
        with self.store.write() as connection:
            row = _find(connection, job_id)
            if row.kind not in WORKER_KINDS:
                raise JobError(f"job {job_id} is of kind {row.kind}; only trainings and packagings can be cancelled")
            reason = f"cancelled by {who}"
            if not advance(connection, "job", job_id, "cancel", message=reason, finished=now()):
                raise JobError(f"job {job_id} is {row.state} already; only a job that waits or runs can be cancelled")
            apply_outcome(connection, row, Outcome(error=reason))
            return _summary(connection, _find(connection, job_id))


def _find(connection: Connection, job_id: int) -> Row:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise JobError(f"there is no job {job_id}; `linewatch jobs list --all` shows those that there are")
    return row


def _summary(connection: Connection, row: Row) -> dict[str, Any]:
    return {
        "job": row.id, "kind": row.kind, "subject": _subject(connection, row), "state": row.state, "created": row.created,
        "message": row.message,
    }  # fmt: skip


def _subject(connection: Connection, row: Row) -> str:
    """What a job is for, as PROJECT/WHAT; empty when it is gone."""
    table, column = {
        "train": (models, models.c.version), "delete_model": (models, models.c.version), "package": (packagings, packagings.c.name),
    }.get(row.kind, (datasets, datasets.c.kind))  # fmt: skip
    joined = table.join(projects, table.c.project_id == projects.c.id)
    found = connection.execute(sa.select(projects.c.name, column).select_from(joined).where(table.c.id == row.subject_id)).first()
    return f"{found[0]}/{found[1] or 'deleted dataset'}" if found else ""


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            return stream.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []
