"""Memory for bodies: whatever comes and goes, no share is exceeded, and nobody who is unproven keeps proven callers out."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.control_plane.bodies import BodyBudget, Hold
from linewatch.control_plane.errors import ThrottlingError

SIZE, LARGEST = 1000, 100
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans(), st.integers(1, LARGEST)), max_size=60)


@given(STEPS, st.randoms())
def test_no_share_is_exceeded_and_all_is_given_back(steps: list[tuple[str, str, bool, int]], chance: object) -> None:
    budget, holds = BodyBudget(SIZE, LARGEST), []
    for address, key, proven, size in steps:
        hold = budget.hold(address, key, proven)
        holds.append(hold)
        with suppress(ThrottlingError):
            hold.take(size)
        if size % 3 == 0:
            with suppress(ThrottlingError):
                hold.prove()
        if size % 5 == 0:
            holds.pop(size % len(holds)).release()
        for kind, most in {"all": SIZE, "unproven": 500, "address": 250, "unproven key": 250, "key": 500}.items():
            assert all(0 <= held <= most for (what, _), held in budget._held.items() if what == kind)
    for hold in holds:
        hold.release()
    assert (budget.held, dict(budget._held)) == (0, {})


def fill(hold: Hold, step: int = 50) -> int:
    """Take until there is nothing left."""
    taken = 0
    with suppress(ThrottlingError):
        while True:
            hold.take(step)
            taken += step
    return taken


def test_strangers_leave_room_for_others() -> None:
    budget = BodyBudget(SIZE, LARGEST)
    assert fill(budget.hold("stranger", "known", proven=False)) == 250
    assert fill(budget.hold("stranger", "other", proven=False)) == 0  # from one address no more, whichever key it names
    assert fill(budget.hold("second", "known", proven=False)) == 0  # nor for one key, from wherever
    budget.hold("line", "line-7", proven=False).take(LARGEST)
    assert fill(budget.hold("line", "known", proven=True)) == 500  # who really has the key is not kept out by them
    assert fill(budget.hold("line", "line-8", proven=True)) == 150


def test_a_share_is_never_smaller_than_a_body() -> None:
    budget = BodyBudget(LARGEST, LARGEST)
    budget.hold("a", "k", proven=False).take(LARGEST)
    with pytest.raises(ThrottlingError, match="all calls"):
        budget.hold("b", "l", proven=True).take(1)
