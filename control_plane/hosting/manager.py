"""Brings what is hosted in line with the store: models that are starting are started, those that are stopping are stopped.

The store says what should be; after a restart the models that were hosted are hosted again.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from linewatch.anomaly_model.child_job import describe_fault
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.errors import ConflictError, ThrottlingError
from linewatch.control_plane.hosting.hosted_model import HostedModel, clear_leftovers
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import Row, models
from linewatch.control_plane.store.transitions import advance
from linewatch.edge_agent.client import AgentCallError

log = logging.getLogger(__name__)
_LOOK_S = 0.5
_SCALE_S = 1.0


class HostingManager:
    """The hosted models of a server."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._hosted: dict[int, HostedModel] = {}
        self._busy: set[int] = set()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="hosting")
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="hosting", daemon=True)
        self._scaled = 0.0

    def start(self) -> None:
        """Begin. What an earlier server hosted is not available until it is hosted again."""
        clear_leftovers()
        with self._store.write() as connection:
            for row in connection.execute(sa.select(models).where(models.c.status == "HOSTED")).all():
                advance(connection, "model", row.id, "interrupted", message="the server was restarted; the model is starting")
        self._thread.start()

    def stop(self) -> None:
        """Drain all models and end their processes. They stay hosted in the store: the next start hosts them again."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._pool.shutdown()
        hosted, self._hosted = list(self._hosted.values()), {}
        if hosted:
            with ThreadPoolExecutor(len(hosted)) as pool:
                list(pool.map(HostedModel.stop, hosted))

    def wake(self) -> None:
        """Look at the store now."""
        self._wake.set()

    def find(self, row: Row, resource: str) -> HostedModel:
        """The hosted model of a row of the store.

        Raises:
            ConflictError: the model is not hosted.
            ThrottlingError: the model is being started again.
        """
        model = self._hosted.get(row.id)
        if row.status == "HOSTED" and model is not None:
            return model
        if row.status in ("SYSTEM_UPDATING", "HOSTED"):
            raise ThrottlingError(f"the model {resource} is being started again; try again in a moment", retry_after_s=2)
        raise ConflictError(
            f"The model {resource} is {row.status}; start it with StartModel and wait until it is HOSTED", resource, "MODEL"
        )

    def units(self, model_id: int) -> tuple[int, int]:
        """Units that the load asks for, and units that serve, of a model; none of one that is not running."""
        model = self._hosted.get(model_id)
        return (model.wanted, model.units) if model is not None else (0, 0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            try:
                self._turn()
            # The store may be away for a while; hosted models go on answering meanwhile.
            except Exception:
                log.exception("hosting cannot look at the store; trying again")
                self._stop.wait(2)

    def _turn(self) -> None:
        with self._store.read() as connection:
            wanted = ("STARTING_HOSTING", "SYSTEM_UPDATING", "STOPPING_HOSTING", "HOSTED")
            rows = connection.execute(sa.select(models).where(models.c.status.in_(wanted))).all()
        for row in rows:
            if row.id in self._busy or self._stop.is_set():
                continue
            hosted = self._hosted.get(row.id)
            if row.status in ("STARTING_HOSTING", "SYSTEM_UPDATING"):
                self._submit(row, self._begin)
            elif row.status == "STOPPING_HOSTING":
                self._submit(row, self._end)
            elif hosted is None or not hosted.is_alive:
                with self._store.write() as connection:
                    advance(connection, "model", row.id, "interrupted", message="its process ended; the model is starting again")
            elif self._idle(hosted):
                log.info("model %s had no call for %s min and is stopped", row.id, self._settings.hosting_idle_min)
                with self._store.write() as connection:
                    advance(connection, "model", row.id, "stop", message="stopped: no call for the time that the settings say")
        if time.monotonic() - self._scaled > _SCALE_S:
            self._scaled = time.monotonic()
            for model_id in list(self._hosted):
                if model_id not in self._busy:
                    self._busy.add(model_id)
                    self._pool.submit(self._rescale, model_id)

    def _idle(self, model: HostedModel) -> bool:
        minutes = self._settings.hosting_idle_min
        return minutes > 0 and time.monotonic() - model.last_call > 60 * minutes

    def _submit(self, row: Row, work: Callable[[Row], None]) -> None:
        self._busy.add(row.id)
        self._pool.submit(self._guarded, row, work)

    def _guarded(self, row: Row, work: Callable[[Row], None]) -> None:
        try:
            work(row)
        # Whatever goes wrong with one model must not end the hosting of the others.
        except Exception as error:
            log.exception("hosting of model %s failed", row.id)
            with self._store.write() as connection:
                advance(connection, "model", row.id, "hosting failed", message=describe_fault(error))
        finally:
            self._busy.discard(row.id)
            self._wake.set()

    def _begin(self, row: Row) -> None:
        old = self._hosted.pop(row.id, None)
        if old is not None:
            old.stop()
        s = self._settings
        try:
            model = HostedModel(
                s.bundle_folder(row.id), row.min_units, row.max_units, s.hosting_threads, s.hosting_queue, s.hosting_start_s
            )
            model.start()
        except LinewatchError as error:
            log.error("model %s cannot be hosted: %s", row.id, error)  # with names of this machine, which are not for callers
            reason = f"the model's process or its bundle cannot be used ({type(error).__name__}); the server's log has more"
            with self._store.write() as connection:
                advance(connection, "model", row.id, "hosting failed", message=reason)
            return
        self._hosted[row.id] = model
        with self._store.write() as connection:
            hosted = advance(connection, "model", row.id, "hosted")
        if not hosted:  # stopped meanwhile
            self._hosted.pop(row.id, None)
            model.stop()

    def _end(self, row: Row) -> None:
        model = self._hosted.pop(row.id, None)
        if model is not None:
            model.stop()
        with self._store.write() as connection:
            advance(connection, "model", row.id, "stopped", message=row.message)

    def _rescale(self, model_id: int) -> None:
        try:
            model = self._hosted.get(model_id)
            if model is not None and model.is_alive:
                model.rescale()
        except AgentCallError as error:
            log.warning("model %s cannot have another inference unit: %s", model_id, error)
        finally:
            self._busy.discard(model_id)
