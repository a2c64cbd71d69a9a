"""Messages put together from pieces, statuses, timeouts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.http2.messages import MessageReader, message_prefix
from edge_agent.http2.status import Status, StatusError, timeout_seconds


def reader(largest: int = 1000) -> MessageReader:
    return MessageReader(largest, lambda _: True, lambda _: None)


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_any_cut_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(message_prefix(len(m)) + m for m in messages)
    found, taker, at = [], reader(), 0
    while at < len(stream):
        count = data.draw(st.integers(1, len(stream) - at))
        found += taker.feed(memoryview(stream[at : at + count]))
        at += count
    assert [bytes(m) for m in found] == messages
    assert taker.missing == 0


def test_missing_counts_down() -> None:
    taker = reader()
    taker.feed(memoryview(b"\0\0"))
    assert taker.missing == 3
    taker.feed(memoryview(b"\0\0\x0aabc"))
    assert taker.missing == 7


@pytest.mark.parametrize(("data", "status"), [
    (b"\x01\0\0\0\x01x", Status.UNIMPLEMENTED), (b"\0\0\0\x03\xe9", Status.RESOURCE_EXHAUSTED),
])  # fmt: skip
def test_compressed_and_large_messages_are_refused(data: bytes, status: Status) -> None:
    with pytest.raises(StatusError) as error:
        reader().feed(memoryview(data))
    assert error.value.status is status


def test_no_memory_left() -> None:
    with pytest.raises(StatusError, match="too many large messages"):
        MessageReader(1000, lambda count: count < 10, lambda _: None).feed(memoryview(message_prefix(10)))


@pytest.mark.parametrize(("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("500m", 0.5), ("7u", 7e-6), ("99999999n", 0.099999999)])
def test_timeouts(text: str, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "-1S", "1.5S", "123456789S", "1X"])
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(StatusError, match="is no timeout"):
        timeout_seconds(text)
