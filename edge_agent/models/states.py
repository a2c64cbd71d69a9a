"""The states of a model on the device, and the only way to change them. Pure."""

import threading
from enum import IntEnum

from linewatch.edge_agent.errors import WrongStateError


class State(IntEnum):
    """Numbers as on the wire."""

    STOPPED = 0
    STARTING = 1
    RUNNING = 2
    FAILED = 3
    STOPPING = 4


class Event(IntEnum):
    """What can happen to a model."""

    START = 0
    LOADED = 1
    CRASHED = 2
    STOP = 3
    GONE = 4
    INVALID_OUTPUT = 5


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STOPPED, Event.START): State.STARTING,
    (State.FAILED, Event.START): State.STARTING,
    (State.STARTING, Event.LOADED): State.RUNNING,
    (State.STARTING, Event.CRASHED): State.FAILED,
    (State.RUNNING, Event.CRASHED): State.FAILED,
    (State.RUNNING, Event.INVALID_OUTPUT): State.FAILED,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.CRASHED): State.STOPPED,
    (State.STOPPING, Event.GONE): State.STOPPED,
}


class StateMachine:
    """One model's state and the message that goes with it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._state = State.STOPPED
        self._message = ""

    @property
    def current(self) -> tuple[State, str]:
        """State and message, read together."""
        with self._lock:
            return self._state, self._message

    def note(self, message: str) -> None:
        """Change the message only."""
        with self._lock:
            self._message = message

    def apply(self, event: Event, message: str = "") -> State:
        """Change the state if the table allows it.

        Raises:
            WrongStateError: names the state that the model is in.
        """
        with self._lock:
            target = TRANSITIONS.get((self._state, event))
            if target is None:
                raise WrongStateError(
                    f"model {self._name!r} is {self._state.name}; {event.name} needs it to be "
                    f"{' or '.join(s.name for s, e in TRANSITIONS if e is event)}"
                )
            self._state, self._message = target, message
            return target
