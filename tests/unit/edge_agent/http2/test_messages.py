"""Messages put together from pieces, budgets, statuses, timeouts, allowances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.edge_agent.http2.budget import Budget
from linewatch.edge_agent.http2.messages import Expected, MessageReader, message_prefix
from linewatch.edge_agent.http2.rate_limit import Allowance, RateLimit, TokenBucket, UserBucket, header_block
from linewatch.edge_agent.http2.status import Status, StatusError, timeout_seconds

MANY = Expected(1000, 10, streaming=True)


def reader(expected: Expected = MANY, budget: int = 10**6) -> MessageReader:
    return MessageReader(expected, Budget(budget).account())


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_any_cut_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(message_prefix(len(m)) + m for m in messages)
    taker, at = reader(), 0
    while at < len(stream):
        count = data.draw(st.integers(1, len(stream) - at))
        taker.feed(memoryview(stream[at : at + count]))
        at += count
    assert [bytes(m) for m in taker.messages] == messages
    assert taker.missing == 0


def test_missing_counts_down() -> None:
    taker = reader()
    taker.feed(memoryview(b"\0\0"))
    assert taker.missing == 3
    taker.feed(memoryview(b"\0\0\x0aabc"))
    assert taker.missing == 7


@pytest.mark.parametrize(("data", "expected", "status"), [
    (b"\x01\0\0\0\x01x", Expected(1000), Status.UNIMPLEMENTED), (b"\0\0\0\x03\xe9", Expected(1000), Status.RESOURCE_EXHAUSTED),
    (bytes(10), Expected(1000), Status.INVALID_ARGUMENT), (bytes(20), Expected(1000, 3, streaming=True), Status.RESOURCE_EXHAUSTED),
])  # fmt: skip
def test_messages_that_are_not_taken(data: bytes, expected: Expected, status: Status) -> None:
    with pytest.raises(StatusError) as error:
        reader(expected).feed(memoryview(data))
    assert error.value.status is status


def test_memory_is_counted_as_it_is_filled() -> None:
    taker = reader(Expected(10**6), budget=30)
    taker.feed(memoryview(message_prefix(10**6) + bytes(10)))
    with pytest.raises(StatusError, match="too many large messages"):
        taker.feed(memoryview(bytes(11)))
    small = reader(Expected(10**6), budget=30)
    small.feed(memoryview(message_prefix(1000) + bytes(1000)))
    assert small.messages, "there is always room for small ones"


def test_a_length_alone_takes_no_memory() -> None:
    takers = [reader(Expected(10**9), 10**9) for _ in range(100)]
    for taker in takers:
        taker.feed(memoryview(message_prefix(50_000_000) + bytes(10)))
        assert taker._body is not None
        assert len(taker._body) <= 64 * 1024
    whole = bytes(range(256)) * 12_000
    for at in range(0, len(whole), 50_000):
        takers[0].feed(memoryview(whole[at : at + 50_000]))
    assert takers[0]._body is not None
    assert bytes(takers[0]._body[10 : 10 + len(whole)]) == whole, "what had come before there was more room is kept"


def test_nobody_gets_more_than_is_left() -> None:
    budget = Budget(100)
    greedy, other = budget.account(), budget.account()
    assert greedy.take(50)
    assert not greedy.take(1)
    assert other.take(25)
    assert not budget.short
    assert other.take(40, always=True)
    assert budget.short
    assert not other.take(1)
    other.give_back(65)
    greedy.give_back(50)
    assert budget.account().take(100)


@pytest.mark.parametrize(("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("500m", 0.5), ("7u", 7e-6), ("99999999n", 0.099999999)])
def test_timeouts(text: str, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "-1S", "1.5S", "123456789S", "1X"])
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(StatusError, match="is no timeout"):
        timeout_seconds(text)


def test_who_floods_waits_and_who_is_answered_does_not() -> None:
    shared = UserBucket(Allowance(100, 200), 0)
    flooding, fair = RateLimit(TokenBucket(Allowance(50, 100), 0), shared), RateLimit(TokenBucket(Allowance(50, 100), 0), shared)
    for _ in range(2):
        flooding.spend(120, 0)
    assert flooding.wait == pytest.approx(0.4)
    fair.spend(30, 0)
    assert fair.wait == 0, "though what all have together is used up"
    fair.spend(30, 0)
    assert fair.wait == pytest.approx(1)
    assert not fair.fair
    fair.spend(-30, 0)
    assert fair.wait == 0, "its call was answered"
    flooding.spend(0, 4)
    assert flooding.wait == 0


def test_debts_of_very_many_hold_up_all_of_a_user_and_end() -> None:
    shared = UserBucket(Allowance(100, 200), 0)
    for _ in range(100):
        RateLimit(TokenBucket(Allowance(50, 100), 0), shared).spend(40, 0)
    newcomer = RateLimit(TokenBucket(Allowance(50, 100), 0), shared)
    other = RateLimit(TokenBucket(Allowance(50, 100), 0), UserBucket(Allowance(100, 200), 0))
    assert newcomer.wait == pytest.approx(2)
    assert other.wait == 0
    newcomer.spend(0, 2)
    assert newcomer.wait == 0


def test_long_header_blocks_cost_more_than_their_length() -> None:
    assert header_block(16_000, 10) > 8 * header_block(4_000, 10)
    assert header_block(200, 200) > 4 * header_block(200, 10)
