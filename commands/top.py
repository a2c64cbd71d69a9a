"""What the agent does now, computed from two snapshots of its metrics."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

Buckets = Mapping[float, float]


@dataclass(frozen=True, slots=True)
class ModelActivity:
    """One model.

    Attributes:
        model: its component's name.
        version: of the model.
        state: as DescribeModel says.
        calls_per_second: answered in the interval.
        failed: calls that ended with an error, in the interval.
        p50_ms: latency in the agent, upper bound of the bucket that the quantile lies in, interpolated; None without calls.
        p99_ms: likewise.
        queue: calls that wait.
        anomalous: share of the interval's pictures; None without calls.
        drift: see `linewatch.edge_agent.models.metrics.drift`; None when too few pictures are known.
        mib: resident memory of its workers.
        deaths: workers that died since the agent was started.
    """

    model: str
    version: str
    state: str
    calls_per_second: float
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    queue: int
    anomalous: float | None
    drift: float | None
    mib: float
    deaths: int


@dataclass(slots=True)
class MetricsSnapshot:
    """The metrics at one moment, by name and labels."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float:
        """One value; 0 where there is none."""
        return self.values.get((name, tuple(sorted(labels.items()))), 0.0)

    def having(self, name: str) -> Iterable[tuple[dict[str, str], float]]:
        """All of one name."""
        return [(dict(labels), value) for (found, labels), value in self.values.items() if found == name]


def parse(text: str) -> MetricsSnapshot:
    """Prometheus's text format."""
    look = MetricsSnapshot()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            look.values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return look


def quantile(share: float, buckets: Buckets) -> float | None:
    """A quantile of a histogram's counts by upper bound, interpolated within its bucket as Prometheus does; None when it is empty."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if bound == float("inf"):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((share * total - below) / inside if inside else 1.0)
        below, lower = buckets[bound], bound
    return lower


def rows(before: MetricsSnapshot, now: MetricsSnapshot, seconds: float) -> list[ModelActivity]:
    """The models, from two snapshots that lie `seconds` apart; `before` may be empty: then since the agent's start."""
    found = []
    states = {(labels["model"], labels["version"]): labels["state"] for labels, value in now.having("linewatch_model_state") if value}
    for (model, version), state in sorted(states.items()):
        calls: dict[str, float] = defaultdict(float)
        for labels, value in now.having("linewatch_calls_total"):
            if labels["model"] == model:
                calls[labels["status"]] += value - before.get("linewatch_calls_total", **labels)
        good = calls.pop("OK", 0.0)
        buckets = {
            float(labels["le"]): value - before.get("linewatch_call_seconds_bucket", **labels)
            for labels, value in now.having("linewatch_call_seconds_bucket") if labels["model"] == model
        }  # fmt: skip
        p50, p99 = quantile(0.5, buckets), quantile(0.99, buckets)
        anomalies = now.get("linewatch_anomalies_total", model=model) - before.get("linewatch_anomalies_total", model=model)
        moved = [value for labels, value in now.having("linewatch_score_drift") if labels["model"] == model]
        found.append(ModelActivity(
            model, version, state, good / seconds, int(sum(calls.values())), p50 and p50 * 1e3, p99 and p99 * 1e3,
            int(now.get("linewatch_queue", model=model)), anomalies / good if good else None, moved[0] if moved else None,
            now.get("linewatch_resident_bytes", process=model) / 2**20, int(now.get("linewatch_worker_deaths_total", model=model)),
        ))  # fmt: skip
    return found


DRIFTED = 0.25
"""A population stability index above this is a change that somebody should look into; a common rule of thumb."""


def table(found: list[ModelActivity], agent_mib: float) -> Table:
    """For a terminal."""
    made = Table(
        "model", "version", "state", "calls/s", "failed", "p50 ms", "p99 ms", "queue", "anomalous", "drift", "MiB", "deaths",
        title=f"agent: {agent_mib:.0f} MiB",
    )  # fmt: skip

    def number(value: float | None, text: str) -> str:
        return "-" if value is None else format(value, text)

    for row in found:
        drifted = row.drift is not None and row.drift > DRIFTED
        made.add_row(
            row.model, row.version, row.state, f"{row.calls_per_second:.1f}", str(row.failed), number(row.p50_ms, ".1f"), number(row.p99_ms, ".1f"),
            str(row.queue), number(row.anomalous, ".1%"), number(row.drift, ".2f") + (" !" if drifted else ""), f"{row.mib:.0f}", str(row.deaths),
            style="bold red" if row.state == "FAILED" or drifted else None,
        )  # fmt: skip
    return made
