"""One hosted model: an edge agent process, and in it a worker for each inference unit."""

import contextlib
import logging
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from linewatch.anomaly_model.bundle import open_bundle
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.picture import Rgb
from linewatch.control_plane.errors import ThrottlingError
from linewatch.control_plane.hosting.scaler import Scaler
from linewatch.edge_agent.client import AgentCallError, AgentClient

log = logging.getLogger(__name__)

SEGMENTS = Path("/dev/shm")
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawn")
"""The agents' parent as the kernel sees it; lives as long as this process."""
_DRAIN_S = 30
_STOP_S = 10
_WAIT_S = 30
_BROKEN = ("UNAVAILABLE", "FAILED_PRECONDITION", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED")


_PREFIX = "linewatch-hosting-"
_LEFT = re.compile(r"linewatch-(?:hosting-)?(\d+)-\w+")


def clear_leftovers() -> None:
    """Remove what servers that were killed left: folders of agents, and shared memory for pictures."""
    for place in (Path(tempfile.gettempdir()), SEGMENTS):
        for path in place.glob("linewatch-*"):
            match = _LEFT.fullmatch(path.name)
            if match is None or path.lstat().st_uid != os.getuid() or Path(f"/proc/{match[1]}").exists():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class HostingError(LinewatchError):
    """The model cannot be hosted."""


class Unit:
    """An inference unit: a model of the agent, and a connection to it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.client = name, AgentClient(address)


class HostedModel:
    """Answers pictures with up to `most` units."""

    def __init__(self, bundle: Path, least: int, most: int | None, threads: int, waiting: int, start_s: int) -> None:
        """Nothing runs yet.

        Args:
            bundle: folder of the model.
            least: inference units.
            most: inference units under load; None for `least`.
            threads: CPU threads of a unit.
            waiting: calls that may wait for one unit.
            start_s: seconds that a unit may take to start.
        """
        manifest = open_bundle(bundle).manifest
        self.picture_size = (manifest.picture.width, manifest.picture.height)
        self.is_segmentation = manifest.is_segmentation
        self.scaler = Scaler(least, most or least)
        self._bundle, self._threads, self._queue, self._start_s = bundle, threads, waiting, start_s
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._address = f"unix://{self._folder / 'agent.sock'}"
        self._process: subprocess.Popen[bytes] | None = None
        self._free: queue.LifoQueue[Unit] = queue.LifoQueue()
        self._units: dict[str, Unit] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._calls, self._busy_s, self._decided = 0, 0.0, time.monotonic()
        self._draining = False
        self.last_call = time.monotonic()
        self.wanted = least

    @property
    def units(self) -> int:
        """Units that serve."""
        return len(self._units)

    @property
    def is_alive(self) -> bool:
        """The agent's process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the agent and the least number of units, and wait until they answer.

        Raises:
            HostingError: with the agent's reason.
        """
        models = self._folder / "models"
        models.mkdir()
        command = [sys.executable, "-P", "-m", "linewatch.edge_agent", "--models", str(models), "--socket", self._address,
                   "--threads", str(self._threads)]  # fmt: skip
        self._process = _SPAWNER.submit(_spawn, command, self._folder / "agent.log").result()
        try:
            with AgentClient(self._address) as client:
                client.wait_until_listening(self._start_s)
            for _ in range(self.scaler.least):
                self.grow()
        except AgentCallError as error:
            reason = f"{error} {self._last_words()}".strip()
            self.stop()
            raise HostingError(reason) from None

    def grow(self) -> None:
        """One more unit.

        Raises:
            AgentCallError: it does not start.
        """
        self._number += 1
        name = f"unit-{self._number}"
        registration = {"component": name, "version": "1.0.0", "folder": str(self._bundle)}
        replace_file(self._folder / "models" / f"{name}.json", msgspec.json.encode(registration))
        unit = Unit(name, self._address)
        try:
            unit.client.start(name, self._start_s)
        except AgentCallError:
            unit.client.close()
            raise
        self._units[name] = unit
        self._free.put(unit)

    def shrink(self) -> None:
        """One unit less, when one is free."""
        with contextlib.suppress(queue.Empty):
            self._end(self._free.get_nowait())

    def _end(self, unit: Unit) -> None:
        self._units.pop(unit.name, None)
        with contextlib.suppress(AgentCallError):
            unit.client.stop(unit.name)
        (self._folder / "models" / f"{unit.name}.json").unlink(missing_ok=True)
        unit.client.close()

    def rescale(self) -> None:
        """Let the scaler look at the load since the last time, and follow it by one unit."""
        moment = time.monotonic()
        with self._lock:
            span = max(moment - self._decided, 1e-3) * max(self.units, 1)
            load, self._busy_s, self._decided = min(self._busy_s / span, 1.0), 0.0, moment
            waiting = max(self._calls - self.units, 0)
        self.wanted = self.scaler.decide(self.units, load, waiting, moment)
        if self.wanted > self.units:
            self.grow()
        elif self.wanted < self.units:
            self.shrink()

    def detect(self, picture: Rgb) -> tuple[Any, Rgb | None]:
        """Predict for a picture: the agent's DetectAnomalyResult, and the mask if the model makes one.

        Raises:
            ThrottlingError: there are more calls than units and their queues hold, or no unit became free in time.
            AgentCallError: the agent answered with an error, or did not answer.
        """
        with self._admission(), self._unit() as unit:
            began = time.monotonic()
            try:
                return unit.client.detect(picture, unit.name)
            finally:
                with self._lock:
                    self._busy_s += time.monotonic() - began

    @contextlib.contextmanager
    def _admission(self) -> Iterator[None]:
        with self._lock:
            if self._draining or self._calls >= self.units * (1 + self._queue):
                raise ThrottlingError(
                    f"{self._calls} pictures are being processed or wait, as many as {self.units} inference units take; send fewer at "
                    "a time, or start the model with more units"
                )
            self._calls += 1
            self.last_call = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    @contextlib.contextmanager
    def _unit(self) -> Iterator[Unit]:
        try:
            unit = self._free.get(timeout=_WAIT_S)
        except queue.Empty:
            raise ThrottlingError("no inference unit became free in time") from None
        try:
            yield unit
        except AgentCallError as error:
            if error.code in _BROKEN and self.is_alive:
                self._revive(unit)
            raise
        finally:
            self._free.put(unit)

    def _revive(self, unit: Unit) -> None:
        """A unit whose worker died is started again before it takes another picture."""
        log.warning("inference unit %s failed; starting it again", unit.name)
        try:
            unit.client.start(unit.name, self._start_s)
        except AgentCallError as error:
            log.error("inference unit %s does not start: %s", unit.name, error)

    def stop(self) -> None:
        """Answer the calls that were accepted, then end the processes."""
        self._draining = True
        deadline = time.monotonic() + _DRAIN_S
        while self._calls and time.monotonic() < deadline:
            time.sleep(0.01)
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for unit in self._units.values():
            unit.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _last_words(self) -> str:
        """The last line of the agent's log, for people."""
        with contextlib.suppress(OSError):
            lines = (self._folder / "agent.log").read_text(errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""


def _spawn(command: list[str], log_file: Path) -> "subprocess.Popen[bytes]":
    with log_file.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "linewatch.control_plane.hosting.end_with_parent", str(os.getpid()), *command], stdin=subprocess.DEVNULL,
            stdout=stream, stderr=stream,
        )  # fmt: skip
