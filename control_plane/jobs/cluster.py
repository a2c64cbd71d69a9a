"""dask.distributed: in this process by default, or a scheduler elsewhere. Begun with the first job, as that takes seconds."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from linewatch.control_plane.jobs.worker import HEARTBEAT, STOPPING, JobSpec, run_job
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import Row

log = logging.getLogger(__name__)
_CONNECT_S, _CLOSE_S = 10, 15


class HeartbeatMonitor:
    """Whether an attempt sends heartbeats. Pure, and no clock but ours is asked: a worker's may be hours off."""

    def __init__(self, last: float, moment: float) -> None:
        """Begin to look.

        Args:
            last: mark of the last heartbeat before this attempt.
            moment: of our clock, in seconds.
        """
        self._last, self._since = last, moment
        self.begun = False

    def look(self, mark: float, moment: float) -> None:
        """Take the heartbeat file's time as it is now; each change of it is a heartbeat."""
        if mark != self._last:
            self._last, self._since, self.begun = mark, moment, True

    def silent_s(self, moment: float) -> float:
        """Seconds since the last heartbeat; of an attempt that has not begun, none."""
        return moment - self._since if self.begun else 0.0


def heartbeat_of(folder: Path) -> float:
    """Mark of a job's last heartbeat, as the file system dates it; 0 before the first."""
    try:
        return (folder / HEARTBEAT).stat().st_mtime
    except OSError:
        return 0.0


@dataclass(slots=True)
class RunningJob:
    """A job on a worker.

    Attributes:
        job: its row, as it was claimed.
        future: of its outcome.
        folder: of the job.
        heartbeat: watches this attempt's.
        message: as it was last reported.
        reported_at: when it was, epoch seconds.
    """

    job: Row
    future: Any
    folder: Path
    heartbeat: HeartbeatMonitor
    message: str = ""
    reported_at: float = 0.0


class Cluster:
    """Where trainings and packagings run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._local: Any = None

    def submit(self, job: Row, spec: JobSpec) -> RunningJob:
        """Give a job to a worker.

        Raises:
            OSError: the scheduler does not answer.
        """
        client = self._connected()
        folder = Path(spec.folder)
        heartbeat = HeartbeatMonitor(heartbeat_of(folder), time.monotonic())
        future = client.submit(
            run_job, msgspec.json.encode(spec), key=f"linewatch-{job.id}-{job.attempt}-{now()}", pure=False, retries=0
        )
        return RunningJob(job, future, folder, heartbeat)

    def _connected(self) -> Any:
        if self._client is not None and self._client.status == "running":
            return self._client
        import distributed

        for name in logging.root.manager.loggerDict:  # importing it set levels of its own
            if name.startswith("distributed"):
                logging.getLogger(name).setLevel(logging.WARNING)
        address = self._settings.jobs_scheduler
        if not address and self._local is None:
            from linewatch.control_plane.jobs.local_cluster import local_cluster

            self._local = local_cluster(self._settings.jobs_parallel)
        self._client = distributed.Client(address or self._local, timeout=_CONNECT_S, set_as_default=False)
        return self._client

    def close(self) -> None:
        """Leave the cluster; the in-process one ends, and its jobs with it."""
        STOPPING.set()
        for part in (self._client, self._local):
            if part is not None:
                try:
                    part.close(timeout=_CLOSE_S)
                except TimeoutError:
                    log.warning("dask did not end within %s s", _CLOSE_S)
