"""Workers that load a model at the same time: all of them or none."""

from pathlib import Path

import structlog

from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers.worker_link import WorkerLink

log = structlog.get_logger()


class Loader:
    """Starts workers, and may be stopped from another thread while they load."""

    def __init__(self) -> None:
        self._loading: list[WorkerLink] = []
        self._stopped = False

    def load(self, folder: Path, settings: Settings, shares: list[list[int]]) -> list[WorkerLink]:
        """Workers, one for each share of processors, when they have loaded.

        Raises:
            WorkerError: one of them cannot be started or does not load; no process is left then.
        """
        links: list[WorkerLink] = []
        try:
            for share in shares:
                link = WorkerLink(folder, settings, share)
                self._loading.append(link)
                links.append(link)
                if self._stopped:
                    link.process.kill()
            for link in links:
                link.load()
        except BaseException:
            for link in links:
                link.end()
            raise
        finally:
            for link in links:
                self._loading.remove(link)
        return links

    def stop(self) -> None:
        """End those that load now, and those that come."""
        self._stopped = True
        for link in list(self._loading):
            link.process.kill()


def running_on(links: list[WorkerLink]) -> str:
    """The status message of a model with these workers."""
    return f"running on {links[0].runtime}" + (f", {len(links)} workers" if len(links) > 1 else "")


def log_running(what: str, component: str, links: list[WorkerLink]) -> None:
    """A line in the log for each worker, and one for those that kept what workers give up."""
    for link in links:
        log.info(what, model=component, runtime=link.runtime, pid=link.process.pid, folder=str(link.folder))
        if link.unconfined:
            log.warning("worker not confined", model=component, pid=link.process.pid, reason=link.unconfined)
