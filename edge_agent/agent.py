"""All models of a device: the catalog of what is installed and a host for each."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.catalog import Catalog, Installed
from edge_agent.errors import ExhaustedError, InvalidRequestError, UnknownModelError, WrongStateError
from edge_agent.metrics import ModelFacts
from edge_agent.model_host import ModelHost
from edge_agent.running import RunningModels
from edge_agent.settings import Settings
from edge_agent.states import State

log = structlog.get_logger()
_NEVER_S = 3600
"""Between looks when the setting rescan_s says never: it may be changed."""


@dataclass(frozen=True, slots=True)
class Description:
    """What clients are told of a model."""

    component: str
    arn: str
    state: State
    message: str


class Agent:
    """What the gRPC service calls."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog = Catalog(Path(settings.models), Path(settings.artifacts) if settings.artifacts else None)
        self._hosts: dict[str, ModelHost] = {}
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[str, int, int]] = {}
        self._ended = threading.Event()
        self._running = RunningModels(Path(settings.state) if settings.state else None)
        self._before = self._running.names

    def apply(self, settings: Settings) -> None:
        """Take other settings: for what is looked at from now on, and for models at their next start."""
        self._settings = settings
        for host in list(self._hosts.values()):
            host.apply(settings)

    @property
    def running_calls(self) -> int:
        """Calls that workers have now, of all models."""
        return sum(host.running_calls for host in list(self._hosts.values()))

    def host(self, component: str) -> ModelHost:
        """The host of an installed model. Does not touch the disk when the model is known.

        Raises:
            InvalidRequestError: no name. UnknownModelError: lists the installed models.
        """
        known = self._hosts.get(component)
        return known if known is not None else self._find(component)[0]

    def _find(self, component: str) -> tuple[ModelHost, Installed]:
        if not component:
            raise InvalidRequestError("model_component is empty; expected the name of an installed model")
        installed = self._catalog.scan()
        entry = installed.get(component)
        if entry is None:
            raise UnknownModelError(
                f"no model {component[:200]!r} is installed; installed in {self._settings.models}: "
                f"{', '.join(sorted(installed)) or 'none'}"
            )
        with self._lock:
            host = self._hosts.setdefault(component, ModelHost(component, entry.folder, self._settings))
        return host, entry

    def start(self, component: str) -> State:
        """See `ModelHost.start`."""
        host, entry = self._find(component)
        state = host.start(entry.folder)
        self._loaded[component] = entry.stamp
        self._running.add(component)
        return state

    def follow(self) -> None:
        """From now on start what asks for it or ran before, and switch running models to new versions while they serve."""
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                if self._settings.rescan_s:
                    self.look_around()
            except Exception:
                # A folder that cannot be read now may be read later; models go on serving.
                log.exception("looking for models failed")
            if self._ended.wait(self._settings.rescan_s or _NEVER_S):
                return

    def look_around(self) -> None:
        """What `follow` does each time."""
        installed = self._catalog.scan()
        self._start_by_itself(installed)
        self._switch_versions(installed)
        for host in list(self._hosts.values()):
            host.stop_if_idle()

    def _start_by_itself(self, installed: Mapping[str, Installed]) -> None:
        """Start models that the setting `autostart` or their registration names, or that ran, each once: who stops one has the last word."""
        wanted = {name.strip() for name in self._settings.autostart.split(",")} | self._before
        for component, entry in installed.items():
            if component not in self._loaded and (entry.autostart or component in wanted):
                try:
                    self.start(component)
                except (ExhaustedError, WrongStateError) as error:
                    log.warning("model not started yet", model=component, reason=str(error))

    def _switch_versions(self, installed: Mapping[str, Installed]) -> None:
        """Switch running models whose folder or bundle.json is another one than was loaded; each new version is tried once."""
        for component, host in list(self._hosts.items()):
            entry = installed.get(component)
            # What is gone for a moment, or half there, is being updated: the loaded version goes on.
            if entry is None or entry.manifest is None or host.status[0] is not State.RUNNING:
                continue
            if self._loaded.get(component) != entry.stamp:
                self._loaded[component] = entry.stamp
                host.replace(entry.folder)

    def stop(self, component: str) -> State:
        """See `ModelHost.stop`."""
        state = self.host(component).stop()
        self._running.remove(component)
        return state

    def describe(self, component: str) -> Description:
        """One model."""
        host, entry = self._find(component)
        return _describe(host, entry)

    def models(self) -> list[Description]:
        """All installed models, by name."""
        return [self.describe(component) for component in sorted(self._catalog.scan())]

    def facts(self) -> list[ModelFacts]:
        """See `edge_agent.metrics.Source`."""
        return [self._facts(entry) for _, entry in sorted(self._catalog.scan().items())]

    def _facts(self, entry: Installed) -> ModelFacts:
        host = self._hosts.get(entry.component)
        manifest = entry.manifest
        version, deciles = (manifest.model.version, manifest.score_range.normal_deciles) if manifest else ("", [])
        if host is None:
            return ModelFacts(entry.component, State.FAILED if entry.problem else State.STOPPED, version, 0, 0, 0, (), deciles)
        pids = tuple(link.process.pid for link in host.workers)
        return ModelFacts(entry.component, host.status[0], version, host.queue_length, host.running_calls, host.crashes, pids, deciles)

    def shut_down(self) -> None:
        """End all workers, at the same time."""
        self._ended.set()
        hosts = list(self._hosts.values())
        if hosts:
            with ThreadPoolExecutor(len(hosts)) as pool:
                list(pool.map(ModelHost.shut_down, hosts))


def _describe(host: ModelHost, entry: Installed) -> Description:
    state, message = host.status
    arn = entry.manifest.model.arn if entry.manifest else ""
    if entry.problem and state is State.STOPPED:
        return Description(entry.component, arn, State.FAILED, entry.problem)
    return Description(entry.component, arn, state, message)
