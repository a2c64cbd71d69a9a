"""What is counted, and drift."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from linewatch.edge_agent.models.metrics import AgentCollector, Counts, Histogram, ModelFacts, drift, exposition
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.workers.prediction import STAGES

DECILES = [float(i) for i in range(1, 10)]


@given(st.lists(st.floats(0, 10), max_size=50))
def test_histograms_count_everything_once(values: list[float]) -> None:
    histogram = Histogram((1, 2, 5))
    for value in values:
        histogram.add(value)
    assert histogram.cumulative()[-1] == ("+Inf", len(values))
    assert dict(histogram.cumulative())["2"] == sum(value <= 2 for value in values)
    assert histogram.total == pytest.approx(sum(values))


def test_scores_like_the_training_s_do_not_drift() -> None:
    scores = [i / 10 for i in range(100)]  # ten in each tenth
    found = drift(scores, DECILES)
    assert found is not None
    assert found < 0.01


def test_scores_that_all_moved_drift_by_the_formula() -> None:
    found = drift([100.0] * 100, DECILES)
    share, empty = 100.5 / 105, 0.5 / 105
    assert found == pytest.approx((share - 0.1) * math.log(share / 0.1) + 9 * (empty - 0.1) * math.log(empty / 0.1))
    assert found > 0.25


def test_no_drift_without_deciles_or_with_few_scores() -> None:
    assert drift([1.0] * 100, []) is None
    assert drift([1.0] * 49, DECILES) is None


class OneModel:
    def facts(self) -> list[ModelFacts]:
        return [ModelFacts('a"b\n', State.RUNNING, "3", 2, 1, 4, (), DECILES)]


def test_exposition_is_prometheus_s_format_and_holds_everything() -> None:
    counts = Counts()
    for i in range(60):
        counts.answered('a"b\n', 0.01, [0.001] * len(STAGES), 100.0, anomalous=i < 6)
    counts.failed('a"b\n', "RESOURCE_EXHAUSTED")
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(exposition(AgentCollector(counts, OneModel())).decode())
        for s in family.samples
    }
    name = ("model", 'a"b\n')
    assert samples["linewatch_calls_total", (name, ("status", "OK"))] == 60
    assert samples["linewatch_calls_total", (name, ("status", "RESOURCE_EXHAUSTED"))] == 1
    assert samples["linewatch_anomalies_total", (name,)] == 6
    assert samples["linewatch_call_seconds_bucket", (("le", "0.01"), name)] == 60
    assert samples["linewatch_stage_seconds_sum", (name, ("stage", "model"))] == pytest.approx(0.06)
    assert samples["linewatch_model_state", (name, ("state", "RUNNING"), ("version", "3"))] == 1
    assert samples["linewatch_model_state", (name, ("state", "FAILED"), ("version", "3"))] == 0
    assert samples["linewatch_queue", (name,)] == 2
    assert samples["linewatch_worker_deaths_total", (name,)] == 4
    assert samples["linewatch_score_drift", (name,)] > 0.25
    assert samples["linewatch_resident_bytes", (("process", "agent"),)] > 2**20
