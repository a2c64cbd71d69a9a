"""Places for connections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.control_plane.connections import ConnectionLimiter, address_group


@pytest.mark.parametrize(("address", "counted"), [
    ("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("::1", "::/64"), ("", ""),
])  # fmt: skip
def test_what_counts_as_one_address(address: str, counted: str) -> None:
    assert address_group(address) == counted


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.9.9"]), st.integers(0, 9)), max_size=80))
def test_places_are_bounded_and_given_back(steps: list[tuple[str, int]]) -> None:
    limiter, taken = ConnectionLimiter(8, 3, frozenset(["10.9.9.9"])), []
    for address, number in steps:
        mine = sum(who == address for who, _ in taken)
        leave = limiter.take(address)
        assert (leave is None) == (len(taken) >= 8 or (address != "10.9.9.9" and mine >= 3))
        if leave is not None:
            taken.append((address, leave))
        if number > 5 and taken:
            taken.pop(number % len(taken))[1]()
    for _, leave in taken:
        leave()
    assert (limiter._all, dict(limiter._taken)) == (0, {})
