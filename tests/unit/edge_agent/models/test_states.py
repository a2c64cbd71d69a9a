import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import sampled_from

from linewatch.edge_agent.errors import WrongStateError
from linewatch.edge_agent.models.states import TRANSITIONS, Event, State, StateMachine
from linewatch.edge_agent.protos import edge_agent_pb2 as pb


def test_numbers_are_those_of_the_wire() -> None:
    assert {s.name: s.value for s in State} == dict(pb.ModelStatus.items())


def test_refusal_names_state_and_what_is_needed() -> None:
    with pytest.raises(WrongStateError, match=r"'m' is STOPPED; STOP needs it to be RUNNING"):
        StateMachine("m").apply(Event.STOP)


def test_start_is_visible_at_once_and_not_twice() -> None:
    machine = StateMachine("m")
    assert machine.apply(Event.START) is State.STARTING
    with pytest.raises(WrongStateError):
        machine.apply(Event.START)


class Walk(RuleBasedStateMachine):
    """Any sequence of events: the machine follows the table, refuses the rest, and never gets stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = StateMachine("m")
        self.expected = State.STOPPED

    @rule(event=sampled_from(list(Event)))
    def happen(self, event: Event) -> None:
        target = TRANSITIONS.get((self.expected, event))
        if target is None:
            with pytest.raises(WrongStateError):
                self.machine.apply(event)
        else:
            assert self.machine.apply(event) is target
            self.expected = target

    @invariant()
    def state_is_as_expected(self) -> None:
        assert self.machine.current[0] is self.expected
        assert any(state is self.expected for state, _ in TRANSITIONS)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=30)
