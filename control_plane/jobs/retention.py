"""Finished jobs are forgotten after a while: rows, steps, and folders with specs and logs. Models and datasets stay."""

import shutil

import sqlalchemy as sa

from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import job_events, jobs

_DAY_S = 24 * 3600
_BATCH = 200


def forget_old_jobs(store: Store, settings: Settings, moment: float) -> int:
    """Remove jobs that finished over `jobs_keep_days` ago, folders first: cut off, it goes on the next time.

    Args:
        store: with the jobs.
        settings: 0 days keep all.
        moment: epoch seconds.

    Returns:
        How many were removed.
    """
    if settings.jobs_keep_days == 0:
        return 0
    old = sa.and_(jobs.c.state.in_(("SUCCEEDED", "FAILED", "CANCELLED")), jobs.c.finished < moment - settings.jobs_keep_days * _DAY_S)
    removed = 0
    while True:
        with store.read() as connection:
            rows = connection.execute(sa.select(jobs).where(old).order_by(jobs.c.id).limit(_BATCH)).all()
        if not rows:
            return removed
        for row in rows:
            shutil.rmtree(settings.folder / "jobs" / str(row.id), ignore_errors=True)
            if row.kind == "train" and row.state != "SUCCEEDED":  # what a child wrote that was cut off
                shutil.rmtree(settings.bundle_folder(row.subject_id).parent, ignore_errors=True)
        ids = [row.id for row in rows]
        with store.write() as connection:
            connection.execute(sa.delete(job_events).where(job_events.c.job_id.in_(ids)))
            connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))
        removed += len(ids)
