"""One thread that moves the jobs table: chores to the server's threads, trainings and packagings to dask, outcomes back."""

import logging
import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec
import sqlalchemy as sa

from linewatch.anomaly_model.child_job import Outcome, describe_fault, read_progress
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.jobs.chores import CHORE, WORTH_RETRYING, ChoreError
from linewatch.control_plane.jobs.cluster import Cluster, Placed, heartbeat_of
from linewatch.control_plane.jobs.place import CANCEL, ChildKilledError, WorkerEndsError, clean_up
from linewatch.control_plane.jobs.preparation import NotYetError, PreparationError, bundle_folder, finish, prepare
from linewatch.control_plane.jobs.retention import forget_old_jobs
from linewatch.control_plane.jobs.table import CHORES, PLACED, Row, beat, claim, queued, running
from linewatch.control_plane.objects import ObjectsError
from linewatch.control_plane.services import Services
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import client_tokens, jobs, models, packagings
from linewatch.control_plane.store.transitions import advance

log = logging.getLogger(__name__)

_IDLE_S = 0.5
_CHORE_THREADS = 4
_TIDY_S = 600
_AGAIN_S, _LOOK_AGAIN_S = 5, 1
TOKEN_LIFE_S = 8 * 3600
"""How long a client token is remembered."""


class JobRunner:
    """Runs the jobs of a server until it is stopped."""

    def __init__(self, services: Services) -> None:
        self._services, self._store, self._settings = services, services.store, services.settings
        self._cluster = Cluster(services.settings)
        self._pool = ThreadPoolExecutor(_CHORE_THREADS, thread_name_prefix="chore")
        # Reaching a scheduler that is away takes seconds, in which chores must not wait.
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="placing")
        self._placing: Future[None] = self._placer.submit(lambda: None)
        self._chores: dict[int, Future[None]] = {}
        self._placed: dict[int, Placed] = {}
        self._retry_at: dict[int, float] = {}
        self._tidied = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Take over what the last server left, and begin."""
        with self._store.write() as connection:
            for job in running(connection, (*CHORES, *PLACED)):
                advance(connection, "job", job.id, "lost", message="the server was restarted")
            wanted = {job.spec.get("changes") for job in queued(connection, ("update",))}
        for path in (self._settings.folder / "changes").glob("*.jsonl"):
            if path.name not in wanted:  # of a call whose transaction was cut off
                path.unlink()
        self._thread.start()

    def stop(self) -> None:
        """Stop after the chores that run; trainings end and go on at the next start."""
        self._stop.set()
        self._services.work.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        self._placer.shutdown(cancel_futures=True)
        self._cluster.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._services.work.wait(_IDLE_S)
            self._services.work.clear()
            try:
                self._turn()
            # The database or the cluster may be away for a while: the jobs wait for it, and the thread must not end.
            except Exception:
                log.exception("the jobs cannot be moved; trying again")
                self._stop.wait(5)

    def _turn(self) -> None:
        self._collect_chores()
        self._collect_placed()
        with self._store.read() as connection:
            waiting = queued(connection, (*CHORES, *PLACED))
        for job in waiting:
            if self._stop.is_set() or self._retry_at.get(job.id, 0) > time.monotonic():
                continue
            if job.kind in CHORES:
                self._begin_chore(job)
            elif len(self._placed) < self._settings.jobs_parallel and self._placing.done():
                self._placing = self._placer.submit(self._place, job)
        if time.monotonic() - self._tidied > _TIDY_S:
            self._tidied = time.monotonic()
            self._pool.submit(self._tidy)

    def _tidy(self) -> None:
        try:
            with self._store.write() as connection:
                connection.execute(sa.delete(client_tokens).where(client_tokens.c.created < now() - TOKEN_LIFE_S))
            forget_old_jobs(self._store, self._settings, now())
        # What cannot be tidied now can be later.
        except Exception:
            log.exception("old jobs cannot be removed; trying again in %s s", _TIDY_S)

    # --- chores

    def _begin_chore(self, job: Row) -> None:
        with self._store.write() as connection:
            claimed = claim(connection, job, self._settings.jobs_lease_s)
        if claimed is not None:
            self._chores[job.id] = self._pool.submit(self._do_chore, claimed)

    def _do_chore(self, job: Row) -> None:
        work, failed = CHORE[job.kind]
        try:
            work(self._services, job)
        # A fault of ours must not leave a dataset in progress for ever.
        except Exception as error:
            reason = str(error)
            if not isinstance(error, (ChoreError, ObjectsError, *WORTH_RETRYING)):
                log.exception("chore %s %s failed", job.kind, job.id)
                reason = f"internal error: {type(error).__name__}; the server's log has more"
            retriable = isinstance(error, WORTH_RETRYING) and job.losses + 1 < self._settings.jobs_attempts
            if failed is None or retriable:
                self._retry(job, reason)
            else:
                self._give_up(job, failed, reason)
        else:
            with self._store.write() as connection:
                advance(connection, "job", job.id, "succeeded", finished=now())
        finally:
            self._services.work.set()

    def _give_up(self, job: Row, failed: Any, reason: str) -> None:
        with self._store.write() as connection:
            failed(connection, job, reason)
            advance(connection, "job", job.id, "failed", message=reason, finished=now())

    def _retry(self, job: Row, reason: str) -> None:
        self._retry_at[job.id] = time.monotonic() + min(2**job.losses, _TIDY_S)
        with self._store.write() as connection:
            advance(connection, "job", job.id, "lost", message=reason, losses=job.losses + 1)

    def _collect_chores(self) -> None:
        for job_id in [i for i, future in self._chores.items() if future.done()]:
            future = self._chores.pop(job_id)
            if future.exception() is not None:  # the store was away even for giving up
                log.error("chore %s", job_id, exc_info=future.exception())
                with self._store.write() as connection:
                    advance(connection, "job", job_id, "lost", message=str(future.exception()))

    # --- trainings and packagings

    def _place(self, job: Row) -> None:
        try:
            placement = prepare(self._services, job)
        except NotYetError:
            self._retry_at[job.id] = time.monotonic() + _LOOK_AGAIN_S  # and others have their turn
            return
        except PreparationError as error:
            with self._store.write() as connection:
                if advance(connection, "job", job.id, "failed", message=str(error), finished=now()):
                    finish(connection, self._services, job, Outcome(error=str(error)))
            return
        with self._store.write() as connection:
            claimed = claim(connection, job, self._settings.jobs_lease_s)
            if claimed is None:
                return
            log_path = os.path.join(placement.folder, "log")  # noqa: PTH118
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(log=log_path))
            if job.kind == "package":
                advance(connection, "packaging", job.subject_id, "run")
        try:
            self._placed[job.id] = self._cluster.submit(claimed, placement)
        # dask and the network below it have many ways to say that the scheduler does not answer.
        except Exception as error:
            log.warning("job %s cannot be placed: %s", job.id, error)
            self._retry_at[job.id] = time.monotonic() + _AGAIN_S
            reason = f"waiting for the dask scheduler: {error}"[:500]
            with self._store.write() as connection:
                advance(connection, "job", job.id, "lost", message=reason)
                tell(connection, job, reason)

    def _collect_placed(self) -> None:
        if self._placing.done() and self._placing.exception() is not None:
            log.error("a job cannot be placed; trying again", exc_info=self._placing.exception())
            self._placing = self._placer.submit(lambda: None)
        self._end_cancelled()
        for job_id, placed in list(self._placed.items()):
            if placed.future.done():
                del self._placed[job_id]
                self._collect(placed)
            else:
                self._watch(placed)

    def _end_cancelled(self) -> None:
        """Tell the workers of jobs that an operator cancelled."""
        if not self._placed:
            return
        cancelled = sa.and_(jobs.c.id.in_(self._placed), jobs.c.state == "CANCELLED")
        with self._store.read() as connection:
            ids = connection.execute(sa.select(jobs.c.id).where(cancelled)).scalars().all()
        for job_id in ids:
            with suppress(FileNotFoundError):
                (self._placed[job_id].folder / CANCEL).touch()

    def _watch(self, placed: Placed) -> None:
        """Mirror signs of life and progress; give the job to another worker when there are none."""
        job, folder, pulse, moment = placed.job, placed.folder, placed.pulse, time.monotonic()
        pulse.look(heartbeat_of(folder), moment)
        silent_s = pulse.silent_s(moment)
        if silent_s > self._settings.jobs_lease_s:
            placed.future.cancel()
        progress = read_progress(folder) if pulse.begun else None
        message = f"{progress.what}: {progress.done} of {progress.total}" if progress else "waiting for a worker"
        if message != placed.message or now() - placed.told > self._settings.jobs_lease_s / 4:
            placed.message, placed.told = message, now()
            with self._store.write() as connection:
                beat(connection, job, now() - silent_s, self._settings.jobs_lease_s, message)
                tell(connection, job, message)

    def _collect(self, placed: Placed) -> None:
        job = placed.job
        try:
            outcome = msgspec.json.decode(placed.future.result(timeout=30), type=Outcome)
        # Dask has many ways to say that a worker is gone; each means another attempt.
        except BaseException as error:
            log.warning("job %s attempt %s: %s", job.id, job.attempt, error)
            with self._store.write() as connection:
                told = isinstance(error, (LinewatchError, ChildKilledError, WorkerEndsError))
                self._lost(connection, job, str(error) if told else describe_fault(error))
            return
        event = "failed" if outcome.error else "succeeded"
        with self._store.write() as connection:
            if advance(connection, "job", job.id, event, message=outcome.error, finished=now()):
                finish(connection, self._services, job, outcome)
            elif job.kind == "train":  # cancelled meanwhile: nobody will ask for what it wrote
                shutil.rmtree(bundle_folder(self._settings, job.subject_id).parent, ignore_errors=True)
        clean_up(placed.folder)

    def _lost(self, connection: sa.Connection, job: Row, reason: str) -> None:
        """Another attempt, or the end of it."""
        losses = job.losses + 1
        if losses < self._settings.jobs_attempts:
            self._retry_at[job.id] = time.monotonic() + _AGAIN_S * losses
            advance(connection, "job", job.id, "lost", message=reason, losses=losses)
            return
        message = f"it was lost {losses} times, the last time by {reason}"
        if advance(connection, "job", job.id, "failed", message=message, finished=now()):
            finish(connection, self._services, job, Outcome(error=message, fault=True))
            clean_up(self._settings.folder / "jobs" / str(job.id))


def tell(connection: sa.Connection, job: Row, message: str) -> None:
    """Show a job's progress as the status message of what it works on."""
    table, status = (models, "TRAINING") if job.kind == "train" else (packagings, "RUNNING")
    connection.execute(sa.update(table).where(table.c.id == job.subject_id, table.c.status == status).values(message=message))
