"""Memory for bodies: whatever comes and goes, no share is exceeded, and nobody who is unverified keeps verified callers out."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.control_plane.body_budget import BodyBudget, Reservation
from linewatch.control_plane.errors import ThrottlingError

SIZE, LARGEST = 1000, 100
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans(), st.integers(1, LARGEST)), max_size=60)


@given(STEPS, st.randoms())
def test_no_share_is_exceeded_and_all_is_given_back(steps: list[tuple[str, str, bool, int]], chance: object) -> None:
    budget, reservations = BodyBudget(SIZE, LARGEST), []
    for address, key, verified, size in steps:
        reservation = budget.reserve(address, key, verified)
        reservations.append(reservation)
        with suppress(ThrottlingError):
            reservation.take(size)
        if size % 3 == 0:
            with suppress(ThrottlingError):
                reservation.mark_verified()
        if size % 5 == 0:
            reservations.pop(size % len(reservations)).release()
        for kind, most in {"all": SIZE, "unverified": 500, "address": 250, "unverified key": 250, "key": 500}.items():
            assert all(0 <= held <= most for (what, _), held in budget._held.items() if what == kind)
    for reservation in reservations:
        reservation.release()
    assert (budget.held, dict(budget._held)) == (0, {})


def fill(reservation: Reservation, step: int = 50) -> int:
    """Take until there is nothing left."""
    taken = 0
    with suppress(ThrottlingError):
        while True:
            reservation.take(step)
            taken += step
    return taken


def test_strangers_leave_room_for_others() -> None:
    budget = BodyBudget(SIZE, LARGEST)
    assert fill(budget.reserve("stranger", "known", verified=False)) == 250
    assert fill(budget.reserve("stranger", "other", verified=False)) == 0  # from one address no more, whichever key it names
    assert fill(budget.reserve("second", "known", verified=False)) == 0  # nor for one key, from wherever
    budget.reserve("line", "line-7", verified=False).take(LARGEST)
    assert fill(budget.reserve("line", "known", verified=True)) == 500  # who really has the key is not kept out by them
    assert fill(budget.reserve("line", "line-8", verified=True)) == 150


def test_a_share_is_never_smaller_than_a_body() -> None:
    budget = BodyBudget(LARGEST, LARGEST)
    budget.reserve("a", "k", verified=False).take(LARGEST)
    with pytest.raises(ThrottlingError, match="all calls"):
        budget.reserve("b", "l", verified=True).take(1)
