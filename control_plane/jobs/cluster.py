"""dask.distributed: in this process by default, or a scheduler elsewhere. Begun with the first job, as that takes seconds."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from control_plane.jobs.place import STOPPING, Placement, run_job
from control_plane.jobs.table import Row
from control_plane.settings import Settings
from control_plane.store.database import now

log = logging.getLogger(__name__)
_CONNECT_S, _CLOSE_S = 10, 15


@dataclass(slots=True)
class Placed:
    """A job on a worker.

    Attributes:
        job: its row, as it was claimed.
        future: of its outcome.
        folder: of the job.
        submitted: epoch seconds.
        message: as it was last told.
        told: when, epoch seconds.
    """

    job: Row
    future: Any
    folder: Path
    submitted: float = field(default_factory=now)
    message: str = ""
    told: float = 0.0


class Cluster:
    """Where jobs are placed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._local: Any = None

    def submit(self, job: Row, placement: Placement) -> Placed:
        """Give a job to a worker.

        Raises:
            OSError: the scheduler does not answer.
        """
        client = self._connected()
        future = client.submit(
            run_job, msgspec.json.encode(placement), key=f"linewatch-{job.id}-{job.attempt}-{now()}", pure=False, retries=0
        )
        return Placed(job, future, Path(placement.folder))

    def _connected(self) -> Any:
        if self._client is not None and self._client.status == "running":
            return self._client
        import distributed

        for name in logging.root.manager.loggerDict:  # importing it set levels of its own
            if name.startswith("distributed"):
                logging.getLogger(name).setLevel(logging.WARNING)
        address = self._settings.jobs_scheduler
        if not address and self._local is None:
            self._local = distributed.LocalCluster(
                n_workers=1, threads_per_worker=self._settings.jobs_parallel, processes=False, dashboard_address=None,
                protocol="inproc://", silence_logs=logging.ERROR, memory_limit=0, dashboard=False,  # no port but ours
            )  # fmt: skip
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
