"""Does the agent stay as it is? Calls at 90 % of capacity for half an hour, a model swap every minute, and what it takes meanwhile.

Capacity is measured first (four clients as fast as they can); then four clients are paced to 90 % of it, by shared memory and, one of
them, by bytes. Every few seconds memory (resident, of the agent and of its workers together), descriptors, threads and p99 are noted. The
model is registered in two versions that take turns.

Held against, from the second tenth of the time to the last (the first one fills pools and caches): memory flat within 2 %, no growth of
descriptors, p99 flat within 20 %, not one failed call. Exit code 1 when one does not hold.

    python -m benchmarks.soak --seconds 1800 --json soak.json
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.agent import enlarge, make_model
from benchmarks.processes import children, resident_mib, this_machine
from linewatch.anomaly_model.bundle import open_bundle, write_bundle
from linewatch.commands.demo import running_agent
from linewatch.commands.drawn.part_set import PartSet
from linewatch.edge_agent.client import AgentCallError, AgentClient

CLIENTS = 4
LOAD = 0.9
COMPONENT = "model-soak"
MEMORY_SHARE, LATENCY_SHARE = 0.02, 0.2


@dataclass
class Noted:
    """What was seen at one moment."""

    second: float
    agent_mib: float
    workers_mib: float
    workers: int
    descriptors: int
    threads: int


@dataclass
class Load:
    """Clients that call at a pace, and what became of their calls."""

    address: str
    milliseconds: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    versions: set[float] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, rate: float | None) -> list[threading.Thread]:
        """Start the clients: together `rate` calls a second, or as many as they can."""
        pause = None if rate is None else CLIENTS / rate
        threads = [threading.Thread(target=self._client, args=(i, pause)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    def _client(self, number: int, pause: float | None) -> None:
        pictures = [enlarge(part.picture) for part in PartSet(2, 2, 0, 0, seed=number)]
        with AgentClient(self.address) as client:
            due, count = time.perf_counter(), 0
            while not self.ended.is_set():
                if pause is not None:
                    due = max(due + pause, time.perf_counter() - 1)
                    time.sleep(max(0.0, due - time.perf_counter()))
                begun = time.perf_counter()
                try:
                    result, _ = client.detect(pictures[count % len(pictures)], COMPONENT, "bytes" if number == 0 else "shared-memory")
                    self.versions.add(round(result.anomaly_threshold, 3))
                except AgentCallError as error:
                    self.errors.append(str(error))
                self.milliseconds.append((begun, (time.perf_counter() - begun) * 1e3))
                count += 1


class Site:
    """Two versions of a model and the registration that says which one counts."""

    def __init__(self, folder: Path, package: Path) -> None:
        self._registry = folder / "models.d"
        self._registry.mkdir()
        bundle = open_bundle(package / "bundle")
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        for version in (1, 2):
            decision = msgspec.structs.replace(bundle.manifest.decision, threshold=bundle.manifest.decision.threshold + version / 100)
            write_bundle(folder / f"version-{version}", msgspec.structs.replace(bundle.manifest, decision=decision), files)
        self.models, self._folder = self._registry, folder

    def register(self, version: int) -> None:
        entry = {"component": COMPONENT, "version": f"{version}.0.0", "folder": str(self._folder / f"version-{version}"), "autostart": True}
        part = self._registry / "part"
        part.write_text(json.dumps(entry))
        part.rename(self._registry / f"{COMPONENT}.json")


def note(agent: int, begun: float) -> Noted:
    workers = children(agent, "linewatch.edge_agent.workers.worker")
    return Noted(
        time.perf_counter() - begun, resident_mib(agent), sum(resident_mib(pid) for pid in workers), len(workers),
        len(list(Path(f"/proc/{agent}/fd").iterdir())), len(list(Path(f"/proc/{agent}/task").iterdir())),
    )  # fmt: skip


def judge(notes: list[Noted], load: Load, seconds: float, swaps: int) -> dict[str, object]:
    """What held, and the figures. Moments at which a version was being swapped, with workers of both, are left out of memory."""
    steady = [n for n in notes if n.second > seconds * 0.1 and n.workers == min(m.workers for m in notes)]
    half = len(steady) // 2
    early, late = steady[:half], steady[half:]
    memory = [float(np.median([n.agent_mib + n.workers_mib for n in part])) for part in (early, late)]
    descriptors = [min(n.descriptors for n in part) for part in (early, late)]  # calls in progress hold their segments
    start = load.milliseconds[0][0]
    spent = [(at - start, ms) for at, ms in load.milliseconds]
    p99 = [float(np.quantile([ms for at, ms in spent if low * seconds <= at < high * seconds], 0.99)) for low, high in ((0.1, 0.55), (0.55, 1.0))]
    growth, slower = memory[1] / memory[0] - 1, p99[1] / p99[0] - 1
    return {
        "seconds": seconds, "calls": len(load.milliseconds), "failed": len(load.errors), "first_errors": load.errors[:3], "swaps": swaps,
        "versions_seen": sorted(load.versions), "memory_mib": [round(m, 1) for m in memory], "memory_growth": round(growth, 4),
        "agent_mib": [round(float(np.median([n.agent_mib for n in part])), 1) for part in (early, late)],
        "descriptors": descriptors, "threads": [int(np.median([n.threads for n in part])) for part in (early, late)],
        "p50_ms": round(float(np.median([ms for _, ms in spent])), 2), "p99_ms": [round(v, 2) for v in p99], "p99_growth": round(slower, 3),
        "holds": {
            "no failed call": not load.errors, f"memory within {MEMORY_SHARE:.0%}": growth <= MEMORY_SHARE,
            "no more descriptors": descriptors[1] <= descriptors[0], f"p99 within {LATENCY_SHARE:.0%}": slower <= LATENCY_SHARE,
        },
    }  # fmt: skip


def soak(package: Path, seconds: float, swap_every: float, capacity_seconds: float = 10) -> dict[str, object]:
    """Run it; returns the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(Path(scratch), package)
        site.register(1)
        os.environ["LINEWATCH_AGENT_RESCAN_S"] = "1"
        with running_agent(site.models) as address, AgentClient(address) as client:
            del os.environ["LINEWATCH_AGENT_RESCAN_S"]
            client.wait_until_listening(30)
            client.start(COMPONENT)
            [agent] = children(os.getpid(), address)
            full = Load(address)
            threads = full.run(None)
            time.sleep(capacity_seconds)
            full.ended.set()
            for thread in threads:
                thread.join()
            capacity = len(full.milliseconds) / capacity_seconds
            load, notes, swaps = Load(address), [], 0
            threads, begun = load.run(capacity * LOAD), time.perf_counter()
            while (passed := time.perf_counter() - begun) < seconds:
                if passed > (swaps + 1) * swap_every:
                    swaps += 1
                    site.register(1 + swaps % 2)
                time.sleep(min(2.0, seconds / 50))
                notes.append(note(agent, begun))
            load.ended.set()
            for thread in threads:
                thread.join()
        return {"machine": this_machine(), "capacity_per_s": round(capacity, 1), **judge(notes, load, seconds, swaps)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--swap-every", type=float, default=60, help="seconds between versions")
    parser.add_argument("--package", type=Path, help="folder of a packaged model; default: train one on drawn parts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        package = arguments.package or make_model(Path(scratch))
        figures = soak(package, arguments.seconds, arguments.swap_every)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if all(figures["holds"].values()) else 1  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
