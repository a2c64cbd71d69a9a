"""What the agent counts, and how Prometheus reads it.

Calls only add to plain numbers; families, labels and text are made when somebody asks.
"""

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from linewatch.edge_agent.memory import resident_bytes
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.quoting import MOST, truncated
from linewatch.edge_agent.workers.prediction import STAGES

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Bounds of latency histograms."""
DRIFT_CALLS = 500
"""Answers that drift is computed over: the latest ones."""
_DRIFT_LEAST = 50


class Histogram:
    """Counts by bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has it: upper bounds and how many are not above."""
        found, below = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


def drift(scores: Iterable[float], deciles: Sequence[float]) -> float | None:
    """Population stability index of scores against the training's normal pictures: sum of (p - q) ln(p / q) over tenths.

    Under 0.1 nothing has moved, above 0.25 much has: other light, other parts, a dirty lens. Half a picture is added to each tenth,
    so that empty ones do not make it infinite.

    Args:
        scores: raw scores.
        deciles: the nine bounds between tenths of the training's scores.

    Returns:
        None where the bundle names no deciles, or too few scores are known.
    """
    if len(deciles) != 9:
        return None
    counts = [0] * 10
    for score in scores:
        counts[bisect_left(deciles, score)] += 1
    known = sum(counts)
    if known < _DRIFT_LEAST:
        return None
    shares = [(count + 0.5) / (known + 5) for count in counts]
    return sum((share - 0.1) * math.log(share / 0.1) for share in shares)


@dataclass
class ModelCounts:
    """What was counted of one model."""

    calls: dict[str, int] = field(default_factory=dict)
    anomalies: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    stages: tuple[Histogram, ...] = field(default_factory=lambda: tuple(Histogram(SECONDS) for _ in STAGES))
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=DRIFT_CALLS))


class Counts:
    """What was counted of all models. Names of models come from the catalog only, never from callers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, ModelCounts] = {}

    def _model(self, name: str) -> ModelCounts:
        """Of one model; called with the lock held."""
        counts = self._models.get(name)
        if counts is None:
            counts = self._models[name] = ModelCounts()
        return counts

    def answered(self, name: str, seconds: float, stages: Sequence[float], score: float, *, anomalous: bool) -> None:
        """A picture was inspected.

        Args:
            name: of the model.
            seconds: from the whole request to its answer.
            stages: seconds of each of `STAGES`.
            score: of the picture.
            anomalous: the verdict.
        """
        with self._lock:
            counts = self._model(name)
            counts.calls["OK"] = counts.calls.get("OK", 0) + 1
            counts.anomalies += anomalous
            counts.seconds.add(seconds)
            counts.scores.append(score)
            for histogram, value in zip(counts.stages, stages, strict=True):
                histogram.add(value)

    def failed(self, name: str, status: str) -> None:
        """A call ended with an error."""
        with self._lock:
            counts = self._model(name)
            counts.calls[status] = counts.calls.get(status, 0) + 1

    def snapshot(self) -> dict[str, ModelCounts]:
        """By model, for reading."""
        with self._lock:
            return dict(self._models)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of a model now."""

    name: str
    state: State
    version: str
    queue: int
    calls: int
    restarts: int
    pids: tuple[int, ...]
    deciles: Sequence[float]


class Source(Protocol):
    """Who knows the models."""

    def facts(self) -> list[ModelFacts]:
        """Of all installed models."""
        ...


class AgentCollector(Collector):
    """Makes Prometheus's families of what was counted and what is true now."""

    def __init__(self, counts: Counts, source: Source, results: "ResultFacts | None" = None) -> None:
        self._counts, self._source, self._results = counts, source, results

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._counted()
        yield from self._present()

    def _counted(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("linewatch_calls", "DetectAnomalies calls by how they ended.", labels=["model", "status"])
        anomalies = CounterMetricFamily("linewatch_anomalies", "Pictures that were found anomalous.", labels=["model"])
        seconds = HistogramMetricFamily("linewatch_call_seconds", "From a whole request to its answer.", labels=["model"])
        stages = HistogramMetricFamily("linewatch_stage_seconds", "Parts of a call.", labels=["model", "stage"])
        for name, counts in sorted(self._counts.snapshot().items()):
            for status, number in sorted(counts.calls.items()):
                calls.add_metric([name, status], number)
            anomalies.add_metric([name], counts.anomalies)
            seconds.add_metric([name], counts.seconds.cumulative(), counts.seconds.total)
            for stage, histogram in zip(STAGES, counts.stages, strict=True):
                stages.add_metric([name, stage], histogram.cumulative(), histogram.total)
        yield from (calls, anomalies, seconds, stages)

    def _present(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("linewatch_model_state", "1 for the state that a model is in.", labels=["model", "version", "state"])
        queue = GaugeMetricFamily("linewatch_queue", "Calls that wait for a worker.", labels=["model"])
        running = GaugeMetricFamily("linewatch_running_calls", "Calls that a worker has.", labels=["model"])
        restarts = CounterMetricFamily("linewatch_worker_deaths", "Workers that died.", labels=["model"])
        memory = GaugeMetricFamily("linewatch_resident_bytes", "Resident memory of a process.", labels=["process"])
        moved = GaugeMetricFamily("linewatch_score_drift", f"Population stability index of the last {DRIFT_CALLS} scores.", labels=["model"])
        counted = self._counts.snapshot()
        memory.add_metric(["agent"], resident_bytes("self"))
        for model in self._source.facts():
            for possible in State:
                state.add_metric([model.name, truncated(model.version, MOST), possible.name], float(possible is model.state))
            queue.add_metric([model.name], model.queue)
            running.add_metric([model.name], model.calls)
            restarts.add_metric([model.name], model.restarts)
            if model.pids:
                memory.add_metric([model.name], sum(resident_bytes(str(pid)) for pid in model.pids))
            found = drift(list(counted[model.name].scores), model.deciles) if model.name in counted else None
            if found is not None:
                moved.add_metric([model.name], found)
        yield from (state, queue, running, restarts, memory, moved)
        if self._results is not None:
            kept, dropped = self._results.counts()
            waiting = GaugeMetricFamily("linewatch_results_waiting", "Results that are kept on disk until they are published.")
            waiting.add_metric([], kept)
            lost = CounterMetricFamily("linewatch_results_dropped", "Oldest results that made room for newer ones.")
            lost.add_metric([], dropped)
            yield from (waiting, lost)


class ResultFacts(Protocol):
    """Who keeps results."""

    def counts(self) -> tuple[int, int]:
        """How many wait, and how many were dropped."""
        ...


def exposition(collector: AgentCollector) -> bytes:
    """Prometheus's text format."""
    return bytes(generate_latest(registry(collector)))


def registry(collector: AgentCollector) -> CollectorRegistry:
    """A registry with our metrics only."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    return made
