"""One thread that moves the jobs table: background tasks to the server's threads, trainings and packagings to dask, outcomes back."""

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
from linewatch.control_plane.jobs.background_tasks import BACKGROUND_TASKS, WORTH_RETRYING, BackgroundTaskError
from linewatch.control_plane.jobs.cluster import Cluster, RunningJob, heartbeat_of
from linewatch.control_plane.jobs.preparation import NotYetError, PreparationError, finish, prepare
from linewatch.control_plane.jobs.retention import forget_old_jobs
from linewatch.control_plane.jobs.worker import CANCEL, ChildKilledError, WorkerEndsError, clean_up
from linewatch.control_plane.objects import ObjectsError
from linewatch.control_plane.services import Services
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.job_queue import BACKGROUND_KINDS, WORKER_KINDS, claim, queued, record_heartbeat, running
from linewatch.control_plane.store.schema import Row, client_tokens, jobs, models, packagings
from linewatch.control_plane.store.transitions import advance

log = logging.getLogger(__name__)

_IDLE_S = 0.5
_BACKGROUND_THREADS = 4
_TIDY_S = 600
_AGAIN_S, _LOOK_AGAIN_S = 5, 1
TOKEN_LIFE_S = 8 * 3600
"""How long a client token is remembered."""


class JobRunner:
    """Runs the jobs of a server until it is stopped."""

    def __init__(self, services: Services) -> None:
        self._services, self._store, self._settings = services, services.store, services.settings
        self._cluster = Cluster(services.settings)
        self._pool = ThreadPoolExecutor(_BACKGROUND_THREADS, thread_name_prefix="background")
        # Reaching a scheduler that is away takes seconds, in which background tasks must not wait.
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix="submitting")
        self._submission: Future[None] = self._submitter.submit(lambda: None)
        self._tasks: dict[int, Future[None]] = {}
        self._running: dict[int, RunningJob] = {}
        self._retry_at: dict[int, float] = {}
        self._tidied = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Take over what the last server left, and begin."""
        with self._store.write() as connection:
            for job in running(connection, (*BACKGROUND_KINDS, *WORKER_KINDS)):
                advance(connection, "job", job.id, "lost", message="the server was restarted")
            wanted = {job.spec.get("changes") for job in queued(connection, ("update",))}
        for path in (self._settings.folder / "changes").glob("*.jsonl"):
            if path.name not in wanted:  # of a call whose transaction was cut off
                path.unlink()
        self._thread.start()

    def stop(self) -> None:
        """Stop after the background tasks that run; trainings end and go on at the next start."""
        self._stop.set()
        self._services.work.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        self._submitter.shutdown(cancel_futures=True)
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
        self._collect_tasks()
        self._collect_running()
        with self._store.read() as connection:
            waiting = queued(connection, (*BACKGROUND_KINDS, *WORKER_KINDS))
        for job in waiting:
            if self._stop.is_set() or self._retry_at.get(job.id, 0) > time.monotonic():
                continue
            if job.kind in BACKGROUND_KINDS:
                self._start_task(job)
            elif len(self._running) < self._settings.jobs_parallel and self._submission.done():
                self._submission = self._submitter.submit(self._submit, job)
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

    # --- background tasks

    def _start_task(self, job: Row) -> None:
        with self._store.write() as connection:
            claimed = claim(connection, job, self._settings.jobs_lease_s)
        if claimed is not None:
            self._tasks[job.id] = self._pool.submit(self._run_task, claimed)

    def _run_task(self, job: Row) -> None:
        work, failed = BACKGROUND_TASKS[job.kind]
        try:
            work(self._services, job)
        # A fault of ours must not leave a dataset in progress for ever.
        except Exception as error:
            reason = str(error)
            if not isinstance(error, (BackgroundTaskError, ObjectsError, *WORTH_RETRYING)):
                log.exception("background task %s %s failed", job.kind, job.id)
                reason = describe_fault(error)
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

    def _collect_tasks(self) -> None:
        for job_id in [i for i, future in self._tasks.items() if future.done()]:
            future = self._tasks.pop(job_id)
            if future.exception() is not None:  # the store was away even for giving up
                log.error("background task %s", job_id, exc_info=future.exception())
                with self._store.write() as connection:
                    advance(connection, "job", job_id, "lost", message=str(future.exception()))

    # --- trainings and packagings

    def _submit(self, job: Row) -> None:
        try:
            spec = prepare(self._services, job)
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
            log_path = os.path.join(spec.folder, "log")  # noqa: PTH118
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(log=log_path))
            if job.kind == "package":
                advance(connection, "packaging", job.subject_id, "run")
        try:
            self._running[job.id] = self._cluster.submit(claimed, spec)
        # dask and the network below it have many ways to say that the scheduler does not answer.
        except Exception as error:
            log.warning("job %s cannot be submitted: %s", job.id, error)
            self._retry_at[job.id] = time.monotonic() + _AGAIN_S
            reason = f"waiting for the dask scheduler: {error}"[:500]
            with self._store.write() as connection:
                advance(connection, "job", job.id, "lost", message=reason)
                show_progress(connection, job, reason)

    def _collect_running(self) -> None:
        if self._submission.done() and self._submission.exception() is not None:
            log.error("a job cannot be submitted; trying again", exc_info=self._submission.exception())
            self._submission = self._submitter.submit(lambda: None)
        self._end_cancelled()
        for job_id, job_run in list(self._running.items()):
            if job_run.future.done():
                del self._running[job_id]
                self._collect(job_run)
            else:
                self._watch(job_run)

    def _end_cancelled(self) -> None:
        """Tell the workers of jobs that an operator cancelled."""
        if not self._running:
            return
        cancelled = sa.and_(jobs.c.id.in_(self._running), jobs.c.state == "CANCELLED")
        with self._store.read() as connection:
            ids = connection.execute(sa.select(jobs.c.id).where(cancelled)).scalars().all()
        for job_id in ids:
            with suppress(FileNotFoundError):
                (self._running[job_id].folder / CANCEL).touch()

    def _watch(self, job_run: RunningJob) -> None:
        """Mirror heartbeats and progress; give the job to another worker when there are none."""
        job, folder, heartbeat, moment = job_run.job, job_run.folder, job_run.heartbeat, time.monotonic()
        heartbeat.look(heartbeat_of(folder), moment)
        silent_s = heartbeat.silent_s(moment)
        if silent_s > self._settings.jobs_lease_s:
            job_run.future.cancel()
        progress = read_progress(folder) if heartbeat.begun else None
        message = f"{progress.what}: {progress.done} of {progress.total}" if progress else "waiting for a worker"
        if message != job_run.message or now() - job_run.reported_at > self._settings.jobs_lease_s / 4:
            job_run.message, job_run.reported_at = message, now()
            with self._store.write() as connection:
                record_heartbeat(connection, job, now() - silent_s, self._settings.jobs_lease_s, message)
                show_progress(connection, job, message)

    def _collect(self, job_run: RunningJob) -> None:
        job = job_run.job
        try:
            outcome = msgspec.json.decode(job_run.future.result(timeout=30), type=Outcome)
        # Dask has many ways to say that a worker is gone; each means another attempt.
        except BaseException as error:
            log.warning("job %s attempt %s: %s", job.id, job.attempt, error)
            with self._store.write() as connection:
                expected = isinstance(error, (LinewatchError, ChildKilledError, WorkerEndsError))
                self._lost(connection, job, str(error) if expected else describe_fault(error))
            return
        event = "failed" if outcome.error else "succeeded"
        with self._store.write() as connection:
            if advance(connection, "job", job.id, event, message=outcome.error, finished=now()):
                finish(connection, self._services, job, outcome)
            elif job.kind == "train":  # cancelled meanwhile: nobody will ask for what it wrote
                shutil.rmtree(self._settings.bundle_folder(job.subject_id).parent, ignore_errors=True)
        clean_up(job_run.folder)

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


def show_progress(connection: sa.Connection, job: Row, message: str) -> None:
    """Show a job's progress as the status message of what it works on."""
    table, status = (models, "TRAINING") if job.kind == "train" else (packagings, "RUNNING")
    connection.execute(sa.update(table).where(table.c.id == job.subject_id, table.c.status == status).values(message=message))
