"""What a worker's process says, without the process."""

import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from linewatch.anomaly_model.runtime import ModelOutputs
from linewatch.edge_agent.socket_pair import message_socket_pair
from linewatch.edge_agent.workers.messages import (
    Cancelled,
    ErrorReply,
    PredictRequest,
    PredictResponse,
    Reply,
    receive_reply,
    send,
)
from linewatch.edge_agent.workers.shared_buffer import SharedBuffer
from linewatch.edge_agent.workers.worker import Worker, serve
from tests.unit.anomaly_model.test_manifest import SMALL

MANIFEST = msgspec.structs.replace(SMALL, labels=[])


class Brightness:
    """A runtime: the score is the first byte, and some of them are none."""

    name = "brightness"

    def prepare(self, picture: Any) -> Any:
        return picture

    def run(self, picture: Any) -> ModelOutputs:
        score = {253: np.nan, 254: np.inf}.get(int(picture[0, 0, 0]), float(picture[0, 0, 0]))
        if score == 252:
            raise RuntimeError("x" * 10_000)
        return ModelOutputs(score, np.zeros((4, 4), np.float32), None)


class Asked:
    def __init__(self) -> None:
        self.channel, theirs = message_socket_pair()
        self.buffer = SharedBuffer()
        worker = Worker(SimpleNamespace(manifest=MANIFEST), Brightness(), "resize")  # type: ignore[arg-type]
        self.thread = threading.Thread(target=serve, args=({theirs.fileno(): (theirs, self.buffer)}, worker))
        self.theirs = theirs
        self.thread.start()

    def ask(self, number: int, brightness: int, width: int = 64) -> Reply | None:
        self.buffer.picture(64 * 64 * 3)[:] = bytes([brightness]) * (64 * 64 * 3)
        send(self.channel, PredictRequest(number, width, 64, 0))
        return receive_reply(self.channel)


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.channel.close()
    made.thread.join(10)
    made.theirs.close()
    made.buffer.close()
    gc.enable()


def test_every_reply_says_which_request_it_is_to(asked: Asked) -> None:
    answer = asked.ask(7, 3)
    assert isinstance(answer, PredictResponse)
    assert (answer.number, answer.score) == (7, 3.0)
    assert asked.ask(2**40, 253) == ErrorReply(2**40, "the model's score is nan; expected a finite number", "model")
    assert asked.ask(8, 254) == ErrorReply(8, "the model's score is inf; expected a finite number", "model")
    wrong = asked.ask(9, 0, width=10)
    assert isinstance(wrong, ErrorReply)
    assert (wrong.number, wrong.fault) == (9, "request")
    asked.buffer.cancel(10)
    assert asked.ask(10, 1) == Cancelled(10)
    assert isinstance(asked.ask(11, 1), PredictResponse)


def test_a_long_refusal_is_cut(asked: Asked) -> None:
    refusal = asked.ask(12, 252)
    assert isinstance(refusal, ErrorReply)
    assert (refusal.number, refusal.fault, len(refusal.message)) == (12, "program", 4000)
