"""Jobs: heartbeats, cancelling, what is forgotten when."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.child_job import Outcome
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.jobs import worker
from linewatch.control_plane.jobs.admin import JobAdmin, JobError
from linewatch.control_plane.jobs.cluster import HeartbeatMonitor, RunningJob, heartbeat_of
from linewatch.control_plane.jobs.retention import forget_old_jobs
from linewatch.control_plane.jobs.runner import JobRunner
from linewatch.control_plane.jobs.worker import JobSpec, run_job
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.services import Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import components, job_events, jobs, models, packagings, projects
from linewatch.control_plane.wire.page_tokens import PageTokens

DAY_S = 24 * 3600


@given(st.floats(0, 2e9), st.lists(st.tuples(st.floats(0, 2e9), st.floats(0, 100)), max_size=30))
def test_a_heartbeat_is_timed_by_no_clock_but_ours(before: float, looks: list[tuple[float, float]]) -> None:
    heartbeat, moment, last, since, begun = HeartbeatMonitor(before, 0.0), 0.0, before, 0.0, False
    for mark, seconds in looks:
        moment += seconds
        heartbeat.look(mark, moment)
        if mark != last:
            last, since, begun = mark, moment, True
        assert (heartbeat.begun, heartbeat.silent_s(moment)) == (begun, moment - since if begun else 0.0)


def test_an_attempt_whose_clock_is_a_day_off_is_alive() -> None:
    heartbeat = HeartbeatMonitor(0.0, 1000.0)
    for second in range(1, 300):
        heartbeat.look(second - DAY_S, 1000.0 + second)
        assert heartbeat.silent_s(1000.0 + second) == 0.0
    assert heartbeat.silent_s(1400.0) == 101.0


def job_spec(folder: Path, objects: Path, hours: float = 1.0) -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / "outcome.json").write_bytes(msgspec.json.encode(Outcome()))  # the work is done; what is left is to store it
    (folder / "result").write_text("x")
    upload = [("result", "out", "k", "text/plain")]
    return msgspec.json.encode(JobSpec("train", str(folder), hours, str(objects), "", "r", 1, [], upload, "111122223333"))


def slow(folder: Path, beats: int, seen: list[float]) -> object:
    """A store whose objects take until so many beats were seen, or for ten seconds."""

    def put(*_: object) -> None:
        deadline = time.monotonic() + 10
        while len(set(seen)) < beats and time.monotonic() < deadline:
            seen.append(heartbeat_of(folder))
            time.sleep(0.005)

    return put


def test_a_slow_object_does_not_keep_the_heart_from_beating(tmp_path: Path) -> None:
    folder, seen = tmp_path / "job", []
    with mock.patch.object(DirectoryObjects, "put", side_effect=slow(folder, 5, seen)), mock.patch.object(worker, "_HEARTBEAT_S", 0.02):
        run_job(job_spec(folder, tmp_path / "objects"))
    assert len(set(seen)) >= 5
    assert not [t for t in threading.enumerate() if t.name == "heartbeat"]


def test_a_heart_does_not_beat_longer_than_the_job_may_take(tmp_path: Path) -> None:
    folder = tmp_path / "job"

    def put(*_: object) -> None:
        heart = next(t for t in threading.enumerate() if t.name == "heartbeat")
        heart.join(10)
        assert not heart.is_alive()

    with (
        mock.patch.object(DirectoryObjects, "put", side_effect=put), mock.patch.object(worker, "_HEARTBEAT_S", 0.01),
        mock.patch.object(worker, "_GRACE_S", 0),
    ):  # fmt: skip
        run_job(job_spec(folder, tmp_path / "objects", hours=0.1 / 3600))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/x.db")
    found.migrate()
    with found.write() as c:
        c.execute(sa.insert(projects).values(id=1, account="1" * 12, region="r", name="p", created=0))
        c.execute(sa.insert(models).values(id=7, project_id=1, version=3, status="TRAINING", created=0, output_bucket="b", output_prefix=""))
        c.execute(sa.insert(packagings).values(id=8, project_id=1, name="pack", model_version=3, configuration={}, status="RUNNING",
                                               created=0, updated=0))  # fmt: skip
        c.execute(sa.insert(components).values(account="1" * 12, region="r", name="c", version="1.0.0", packaging_id=8))
        for job_id, kind, subject, state in ((1, "train", 7, "QUEUED"), (2, "package", 8, "RUNNING"), (3, "import", 9, "RUNNING")):
            c.execute(sa.insert(jobs).values(id=job_id, kind=kind, subject_id=subject, state=state, spec={}, created=0))
    yield found
    found.close()


def test_cancelling_ends_the_job_and_what_it_was_for(store: Store) -> None:
    admin = JobAdmin(store)
    assert [(j["job"], j["subject"], j["state"]) for j in admin.list()] == [(1, "p/3", "QUEUED"), (2, "p/pack", "RUNNING"), (3, "", "RUNNING")]
    assert admin.cancel(1, "Ada")["message"] == "cancelled by Ada"
    assert admin.cancel(2, "Ada")["state"] == "CANCELLED"
    with store.read() as c:
        assert c.execute(sa.select(models.c.status, models.c.message)).one() == ("TRAINING_FAILED", "cancelled by Ada")
        assert c.execute(sa.select(packagings.c.status, packagings.c.message)).one() == ("FAILED", "cancelled by Ada")
        assert not c.execute(sa.select(components)).all()  # its name and version may be used again
    assert [s["to"] for s in admin.show(1)["steps"]] == ["CANCELLED"]
    for job_id, reason in ((1, "is CANCELLED already"), (3, "only trainings and packagings"), (4, "there is no job 4")):
        with pytest.raises(JobError, match=reason):
            admin.cancel(job_id, "Ada")
    assert [j["job"] for j in admin.list()] == [3]
    assert len(admin.list(everything=True)) == 3


def test_the_worker_of_a_cancelled_job_is_told(store: Store, tmp_path: Path) -> None:
    options = Settings(data=str(tmp_path))
    runner = JobRunner(Services(options, store, DirectoryObjects(tmp_path / "objects"), MasterKey(b"k" * 32), PageTokens(b"k"),
                                HostingManager(options, store)))  # fmt: skip
    folders = {job_id: tmp_path / "jobs" / str(job_id) for job_id in (1, 2)}
    for job_id, folder in folders.items():
        folder.mkdir(parents=True)
        runner._running[job_id] = RunningJob(None, None, folder, HeartbeatMonitor(0.0, 0.0))
    JobAdmin(store).cancel(2, "Ada")
    runner._end_cancelled()
    assert [(folder / "cancel").exists() for folder in folders.values()] == [False, True]
    outcome = msgspec.json.decode(run_job(job_spec(folders[2], tmp_path / "objects")), type=Outcome)
    assert outcome.error == "cancelled"


@contextmanager
def failing_once(name: str) -> Iterator[None]:
    with mock.patch(name, side_effect=OSError("the server is killed")), pytest.raises(OSError, match="killed"):
        yield


def test_old_jobs_are_forgotten_and_others_stay(store: Store, tmp_path: Path) -> None:
    options, moment = Settings(data=str(tmp_path), jobs_keep_days=30), 100.0 * DAY_S
    states = {10: ("SUCCEEDED", 69), 11: ("FAILED", 69), 12: ("CANCELLED", 69), 13: ("SUCCEEDED", 71), 14: ("RUNNING", None)}
    with store.write() as c:
        for job_id, (state, day) in states.items():
            c.execute(sa.insert(jobs).values(id=job_id, kind="train", subject_id=job_id, state=state, spec={}, created=0,
                                             finished=day and day * DAY_S))  # fmt: skip
            c.execute(sa.insert(job_events).values(job_id=job_id, at=0, before="a", after="b"))
    for job_id in states:
        for folder in ("jobs", "models"):
            (tmp_path / folder / str(job_id)).mkdir(parents=True)
    assert forget_old_jobs(store, Settings(data=str(tmp_path), jobs_keep_days=0), moment) == 0
    with failing_once("linewatch.control_plane.jobs.retention.sa.delete"):
        forget_old_jobs(store, options, moment)
    assert forget_old_jobs(store, options, moment) == 3
    assert forget_old_jobs(store, options, moment) == 0
    with store.read() as c:
        assert set(c.execute(sa.select(jobs.c.id)).scalars()) == {1, 2, 3, 13, 14}
        assert set(c.execute(sa.select(job_events.c.job_id)).scalars()) == {13, 14}
    assert {p.name for p in (tmp_path / "jobs").iterdir()} == {"13", "14"}
    assert {p.name for p in (tmp_path / "models").iterdir()} == {"10", "13", "14"}  # a trained model is not a job's to remove
