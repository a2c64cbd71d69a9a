"""A dask cluster in this process: a scheduler and one worker, without a port and nearly without work while there is no job.

dask's own LocalCluster opens a server of pages for each of them, on every interface and for anybody, even without a dashboard.
"""

import logging
from typing import Any

import dask
from distributed import Scheduler, SpecCluster, Worker
from distributed.http.routing import RoutingApplication

_QUIET = {
    "distributed.worker.profile.enabled": False,  # looks at the threads' stacks a hundred times a second
    "distributed.admin.tick.interval": "500ms",  # asks fifty times a second whether the loop is alive
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.scheduler.work-stealing": False,  # there is nobody to steal from
}


class _NoPages:
    """In front of a dask node: it has pages for nobody."""

    http_application: RoutingApplication

    def start_http_server(self, *_arguments: Any, **_options: Any) -> None:
        """Listen on nothing."""
        self.http_application = RoutingApplication([])


class _Scheduler(_NoPages, Scheduler):  # type: ignore[misc]
    """A scheduler without pages."""


class _Worker(_NoPages, Worker):  # type: ignore[misc]
    """A worker without pages."""


def local_cluster(jobs: int) -> Any:
    """A cluster in this process.

    Args:
        jobs: that may run at a time, a thread each.
    """
    dask.config.set(_QUIET)
    place = {"protocol": "inproc://"}
    return SpecCluster(
        scheduler={"cls": _Scheduler, "options": {**place, "dashboard": False}},
        workers={0: {"cls": _Worker, "options": {**place, "nthreads": jobs, "memory_limit": 0, "dashboard": False}}},
        silence_logs=logging.ERROR,
    )
