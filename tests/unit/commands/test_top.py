"""Rates and quantiles from two snapshots of the metrics."""

from linewatch.commands.top import MetricsSnapshot, parse, quantile, rows, table

BEFORE = """
linewatch_calls_total{model="m",status="OK"} 100
linewatch_anomalies_total{model="m"} 10
linewatch_call_seconds_bucket{model="m",le="0.01"} 100
linewatch_call_seconds_bucket{model="m",le="0.02"} 100
linewatch_call_seconds_bucket{model="m",le="+Inf"} 100
"""
NOW = """
linewatch_model_state{model="m",version="2",state="RUNNING"} 1
linewatch_model_state{model="m",version="2",state="FAILED"} 0
linewatch_model_state{model="idle",version="1",state="STOPPED"} 1
linewatch_calls_total{model="m",status="OK"} 150
linewatch_calls_total{model="m",status="INTERNAL"} 3
linewatch_anomalies_total{model="m"} 15
linewatch_call_seconds_bucket{model="m",le="0.01"} 100
linewatch_call_seconds_bucket{model="m",le="0.02"} 150
linewatch_call_seconds_bucket{model="m",le="+Inf"} 150
linewatch_queue{model="m"} 2
linewatch_score_drift{model="m"} 0.3
linewatch_resident_bytes{process="m"} 104857600
linewatch_worker_deaths_total{model="m"} 1
"""


def test_rows() -> None:
    idle, busy = rows(parse(BEFORE), parse(NOW), 10)
    assert (idle.model, idle.state, idle.calls_per_second, idle.p50_ms, idle.anomalous) == ("idle", "STOPPED", 0, None, None)
    assert (busy.model, busy.version, busy.state, busy.calls_per_second, busy.failed) == ("m", "2", "RUNNING", 5.0, 3)
    assert busy.p50_ms == 15.0
    assert busy.anomalous == 0.1
    assert (busy.queue, busy.drift, busy.mib, busy.deaths) == (2, 0.3, 100, 1)


def test_the_first_look_is_since_the_start() -> None:
    _, busy = rows(MetricsSnapshot(), parse(NOW), 10)
    assert busy.calls_per_second == 15


def test_drift_and_failure_stand_out() -> None:
    shown = table(rows(parse(BEFORE), parse(NOW), 10), 50)
    assert [row.style for row in shown.rows] == [None, "bold red"]


def test_quantiles() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {1.0: 0, float("inf"): 0}) is None
    assert quantile(0.5, {1.0: 10, 2.0: 20, float("inf"): 20}) == 1.0
    assert quantile(0.75, {1.0: 10, 2.0: 20, float("inf"): 20}) == 1.5
    assert quantile(0.99, {1.0: 10, float("inf"): 20}) == 1.0, "above all bounds nothing more is known"
