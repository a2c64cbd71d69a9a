"""All models of a device: the catalog of what is installed and a host for each."""

import contextlib
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.errors import ExhaustedError, InvalidRequestError, UnknownModelError, WrongStateError
from linewatch.edge_agent.models.catalog import Catalog, InstalledModel
from linewatch.edge_agent.models.host import ModelHost
from linewatch.edge_agent.models.metrics import ModelFacts
from linewatch.edge_agent.models.running import RunningModels
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.quoting import quoted
from linewatch.edge_agent.settings import Settings

log = structlog.get_logger()
_NEVER_S = 3600
"""Between looks when the setting rescan_s says never: it may be changed."""
_RETURN_S = 3600
"""For a model that ran before the agent was started to be installed again: after a boot a core starts components one after the other."""
_SERVING = (State.STARTING, State.RUNNING, State.STOPPING)


@dataclass(frozen=True, slots=True)
class Description:
    """What clients are told of a model."""

    component: str
    arn: str
    state: State
    message: str


class ModelManager:
    """Knows which models are installed, and has a host for each that was ever asked for."""

    def __init__(self, settings: Settings) -> None:
        """Nothing runs yet.

        Raises:
            SettingsError: there is no folder for models.
        """
        if not Path(settings.models).is_dir():
            raise SettingsError(
                f"models {settings.models!r} is no folder; expected one with bundles or registrations. linewatch package makes bundles; for "
                f"models that come later: mkdir -p {settings.models}"
            )
        self.settings = settings
        self._catalog = Catalog(Path(settings.models), Path(settings.artifacts) if settings.artifacts else None)
        self._hosts: dict[str, ModelHost] = {}
        self._lock = threading.Lock()
        self._known: dict[str, InstalledModel] = {}
        self._missing: dict[str, float] = {}
        self._loaded: dict[str, tuple[str, int, int]] = {}
        self._ended = threading.Event()
        self._running = RunningModels(Path(settings.state) if settings.state else None)
        self._before = self._running.names

    def apply(self, settings: Settings) -> None:
        """Take other settings: for what is looked at from now on, and for models at their next start."""
        self.settings = settings
        for host in list(self._hosts.values()):
            host.apply(settings)

    @property
    def running_calls(self) -> int:
        """Calls that workers have now, of all models."""
        return sum(host.running_calls for host in list(self._hosts.values()))

    def host(self, component: str) -> ModelHost:
        """The host of an installed model. Does not touch the disk when the model is known.

        Raises:
            InvalidRequestError: `component` is empty.
            UnknownModelError: no such model is installed; the message lists those that are.
        """
        known = self._hosts.get(component)
        return known if known is not None else self._find(component)[0]

    def _find(self, component: str) -> tuple[ModelHost, InstalledModel]:
        if not component:
            raise InvalidRequestError("model_component is empty; expected the name of an installed model")
        installed = self._installed()
        entry = installed.get(component)
        if entry is None:
            raise UnknownModelError(
                f"no model {quoted(component)} is installed; installed in {self.settings.models}: "
                f"{', '.join(sorted(installed)) or 'none'}"
            )
        with self._lock:
            host = self._hosts.setdefault(component, ModelHost(component, entry.folder, self.settings))
            self._known[component] = entry
        return host, entry

    def _installed(self) -> dict[str, InstalledModel]:
        """What one look at the disk finds, and what serves: while a component is updated there may be neither version for a moment."""
        installed = self._catalog.scan()
        for component, host in list(self._hosts.items()):
            found = installed.get(component)
            if (found is None or found.manifest is None) and host.status[0] in _SERVING:
                installed[component] = self._known[component]
        return installed

    def start(self, component: str) -> State:
        """See `ModelHost.start`."""
        host, entry = self._find(component)
        state = host.start(entry.folder)
        self._loaded[component] = entry.stamp
        self._running.add(component)
        return state

    def watch(self) -> None:
        """From now on start what asks for it or ran before, and switch running models to new versions while they serve."""
        threading.Thread(target=self._watch, name="rescan", daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                if self.settings.rescan_s:
                    self.rescan()
            except Exception:
                # A folder that cannot be read now may be read later; models go on serving.
                log.exception("looking for models failed")
            if self._ended.wait(self.settings.rescan_s or _NEVER_S):
                return

    def rescan(self) -> None:
        """What `watch` does each time."""
        installed = self._catalog.scan()
        self._end_removed(installed)
        self._start_by_itself(installed)
        self._switch_versions(installed)
        for host in list(self._hosts.values()):
            host.stop_if_idle()

    def _end_removed(self, installed: Mapping[str, InstalledModel]) -> None:
        """Stop and forget what is not installed any more, when it was not for long enough: an update takes the old version away first."""
        now = time.monotonic()
        missing = {name for name in {*self._hosts, *self._running.names} if not _is_there(installed.get(name))}
        self._missing = {name: self._missing.get(name, now) for name in missing}
        for component, since in list(self._missing.items()):
            host = self._hosts.get(component)
            patience = self.settings.removal_s if host is not None else _RETURN_S
            if now - since >= patience and self._end(component, host):
                del self._missing[component]
                log.info("model removed", model=component)

    def _end(self, component: str, host: ModelHost | None) -> bool:
        if host is not None:
            if host.status[0] is State.RUNNING:
                with contextlib.suppress(WrongStateError):  # it has just been stopped, or died
                    host.stop()
            if host.status[0] in _SERVING:
                return False  # at the next look
            with self._lock:
                del self._hosts[component]
        self._running.remove(component)
        self._before -= {component}
        self._loaded.pop(component, None)
        return True

    def _start_by_itself(self, installed: Mapping[str, InstalledModel]) -> None:
        """Start models that the setting `autostart` or their registration names, or that ran, each once: who stops one has the last word."""
        wanted = {name.strip() for name in self.settings.autostart.split(",")} | self._before
        for component, entry in installed.items():
            if component not in self._loaded and (entry.autostart or component in wanted):
                try:
                    self.start(component)
                except (ExhaustedError, WrongStateError) as error:
                    log.warning("model not started yet", model=component, reason=str(error))

    def _switch_versions(self, installed: Mapping[str, InstalledModel]) -> None:
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

    def descriptions(self) -> list[Description]:
        """Of all installed models, by name."""
        return [_describe(self._hosts.get(component), entry) for component, entry in sorted(self._installed().items())]

    def facts(self) -> list[ModelFacts]:
        """See `linewatch.edge_agent.models.metrics.Source`."""
        return [self._facts(entry) for _, entry in sorted(self._installed().items())]

    def _facts(self, entry: InstalledModel) -> ModelFacts:
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


def _is_there(entry: InstalledModel | None) -> bool:
    """Whether a component is installed; a registration alone, whose folder is gone, was left by a script that was killed."""
    return entry is not None and (entry.manifest is not None or entry.folder.is_dir())


def _describe(host: ModelHost | None, entry: InstalledModel) -> Description:
    state, message = host.status if host is not None else (State.STOPPED, "")
    arn = entry.manifest.model.arn if entry.manifest else ""
    if entry.problem and state is State.STOPPED:
        return Description(entry.component, arn, State.FAILED, entry.problem)
    return Description(entry.component, arn, state, message)
