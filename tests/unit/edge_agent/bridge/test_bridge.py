"""What agent and bridge say to each other."""

import threading
from collections.abc import Iterator

import pytest

from linewatch.edge_agent.bridge import __main__ as module
from linewatch.edge_agent.bridge.__main__ import Bridge
from linewatch.edge_agent.bridge.messages import BridgeOptions, RunningCalls, RunningCallsQuery, receive_from_bridge, send
from linewatch.edge_agent.socket_pair import message_socket_pair


class Agent:
    def __init__(self) -> None:
        self.channel, theirs = message_socket_pair()
        self.bridge = Bridge(BridgeOptions(theirs.detach(), False, "", 0, "", "", "", "", "", "", "", ""))
        self.thread = threading.Thread(target=self.bridge.run)
        self.thread.start()

    def asked(self) -> int:
        question = receive_from_bridge(self.channel)
        assert isinstance(question, RunningCallsQuery)
        return question.number


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.channel.close()
    made.thread.join(10)
    made.bridge._channel.close()


def test_an_answer_that_comes_late_is_to_no_other_question(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ANSWER_S", 0.02)
        assert not agent.bridge.busy()  # as good as no answer
    first, answers = agent.asked(), []
    asking = threading.Thread(target=lambda: answers.append(agent.bridge.busy()))
    asking.start()
    second = agent.asked()
    assert second != first
    send(agent.channel, RunningCalls(first, 3))
    asking.join(0.2)
    assert answers == [], "three calls then are none now"
    send(agent.channel, RunningCalls(second, 0))
    asking.join(10)
    assert answers == [False]
