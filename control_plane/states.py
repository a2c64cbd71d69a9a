"""The life of datasets, models, packagings and jobs, as tables of allowed transitions. Pure.

Each table says for an event from which states it is allowed and where it leads. Nothing changes a status but
`linewatch.control_plane.store.transitions.advance`, which compares and sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A table of transitions: event to (allowed states, next state)."""

    initial: frozenset[str]
    events: Mapping[str, tuple[frozenset[str], str]]

    def sources(self, event: str) -> frozenset[str]:
        """States in which an event is allowed."""
        return self.events[event][0]

    def target(self, event: str) -> str:
        """State that it leads to."""
        return self.events[event][1]

    @property
    def states(self) -> frozenset[str]:
        """All states."""
        return self.initial.union(*(sources | {target} for sources, target in self.events.values()))


def _state_machine(initial: set[str], events: Mapping[str, tuple[set[str], str]]) -> StateMachine:
    return StateMachine(frozenset(initial), {name: (frozenset(sources), target) for name, (sources, target) in events.items()})


_SETTLED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_FAILED_ROLLBACK_COMPLETE"}

DATASET = _state_machine(
    {"CREATE_IN_PROGRESS", "CREATE_COMPLETE"},
    {
        "imported": ({"CREATE_IN_PROGRESS"}, "CREATE_COMPLETE"),
        "import failed": ({"CREATE_IN_PROGRESS"}, "CREATE_FAILED"),
        "update": (_SETTLED, "UPDATE_IN_PROGRESS"),
        "updated": ({"UPDATE_IN_PROGRESS"}, "UPDATE_COMPLETE"),
        "update failed": ({"UPDATE_IN_PROGRESS"}, "UPDATE_FAILED_ROLLBACK_IN_PROGRESS"),
        "rolled back": ({"UPDATE_FAILED_ROLLBACK_IN_PROGRESS"}, "UPDATE_FAILED_ROLLBACK_COMPLETE"),
        "delete": (_SETTLED | {"CREATE_FAILED"}, "DELETE_IN_PROGRESS"),
    },
)

MODEL = _state_machine(
    {"TRAINING"},
    {
        "trained": ({"TRAINING"}, "TRAINED"),
        "training failed": ({"TRAINING"}, "TRAINING_FAILED"),
        "start": ({"TRAINED", "HOSTING_FAILED"}, "STARTING_HOSTING"),
        "hosted": ({"STARTING_HOSTING", "SYSTEM_UPDATING"}, "HOSTED"),
        "hosting failed": ({"STARTING_HOSTING", "SYSTEM_UPDATING", "HOSTED"}, "HOSTING_FAILED"),
        # The server was restarted, or the model's process is being replaced.
        "interrupted": ({"HOSTED"}, "SYSTEM_UPDATING"),
        "stop": ({"HOSTED", "STARTING_HOSTING", "SYSTEM_UPDATING", "HOSTING_FAILED"}, "STOPPING_HOSTING"),
        "stopped": ({"STOPPING_HOSTING"}, "TRAINED"),
        "delete": ({"TRAINED", "TRAINING_FAILED", "HOSTING_FAILED"}, "DELETING"),
    },
)

PACKAGING = _state_machine(
    {"CREATED"},
    {
        "run": ({"CREATED"}, "RUNNING"),
        "succeeded": ({"RUNNING"}, "SUCCEEDED"),
        "failed": ({"CREATED", "RUNNING"}, "FAILED"),
    },
)

JOB = _state_machine(
    {"QUEUED"},
    {
        "claim": ({"QUEUED"}, "RUNNING"),
        # The worker or the server died: the next attempt goes on where this one was.
        "lost": ({"RUNNING"}, "QUEUED"),
        "succeeded": ({"RUNNING"}, "SUCCEEDED"),
        "failed": ({"QUEUED", "RUNNING"}, "FAILED"),
        "cancel": ({"QUEUED", "RUNNING"}, "CANCELLED"),
    },
)
