"""The one place where a status changes: compare and set, by the tables of `linewatch.control_plane.states`."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.states import DATASET, JOB, MODEL, PACKAGING, StateMachine
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import datasets, job_events, jobs, models, packagings

STATE_MACHINES: dict[str, tuple[sa.Table, StateMachine, str]] = {
    "dataset": (datasets, DATASET, "status"),
    "model": (models, MODEL, "status"),
    "packaging": (packagings, PACKAGING, "status"),
    "job": (jobs, JOB, "state"),
}


def advance(connection: Connection, subject: str, row_id: int, event: str, **values: Any) -> bool:
    """Apply an event to a row, with further values, if its state allows it.

    Args:
        connection: of a writing transaction.
        subject: dataset, model, packaging or job.
        row_id: which one.
        event: of its machine.
        values: columns to set with it. A message that is not given is emptied.

    Returns:
        Whether it applied. False: the row is gone, or in another state.
    """
    table, machine, column = STATE_MACHINES[subject]
    changes = {"message": "", **values, column: machine.target(event)}
    if "updated" in table.c:
        changes["updated"] = now()
    before = None
    if subject == "job":
        before = connection.execute(sa.select(table.c.state).where(table.c.id == row_id)).scalar()
    allowed = sa.and_(table.c.id == row_id, table.c[column].in_(machine.sources(event)))
    applied = connection.execute(sa.update(table).where(allowed).values(**changes)).rowcount == 1
    if applied and subject == "job":
        connection.execute(
            sa.insert(job_events).values(
                job_id=row_id, at=now(), before=before, after=machine.target(event), note=str(changes["message"])
            )
        )
    return applied
