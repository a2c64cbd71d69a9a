import numpy as np
import pytest

from linewatch.training.families.descent import one_cycle


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(x) for x in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert np.argmax(rates) == pytest.approx(20, abs=1)
    assert rates[0] < 0.05
    assert rates[-1] < 0.001
