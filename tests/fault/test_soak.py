"""A short soak: what `benchmarks/soak.py` does for half an hour, in half a minute. Latency is left to the long one."""

import pytest

from benchmarks.soak import soak
from linewatch.packager.package import Package

pytestmark = pytest.mark.fault


def test_half_a_minute_at_ninety_percent_with_swaps(packaged: Package) -> None:
    figures = soak(packaged.bundle.folder.parent, seconds=25, swap_every=6, capacity_seconds=3)
    assert figures["failed"] == 0, figures["first_errors"]
    assert figures["swaps"] == 4
    assert len(figures["versions_seen"]) == 2  # type: ignore[arg-type]
    before, after = figures["descriptors"]  # type: ignore[misc]
    assert after <= before + 1
    assert figures["memory_growth"] < 0.1, "the long soak holds 2 %; half a minute is still warming up"  # type: ignore[operator]
