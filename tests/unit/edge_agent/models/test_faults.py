"""Faults of the last minute, by a clock that the test holds."""

from linewatch.edge_agent.models.faults import RecentFaults


def test_faults_are_forgotten_after_a_minute() -> None:
    now = [0.0]
    faults = RecentFaults(lambda: now[0])
    counts = []
    for now[0] in (0, 10, 20, 59, 60, 70, 200):
        counts.append(faults.add())
    assert counts == [1, 2, 3, 4, 4, 4, 1]
