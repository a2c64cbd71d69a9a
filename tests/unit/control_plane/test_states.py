"""The tables of states: any sequence of events keeps to them, in the store as in the table."""

import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import data

from linewatch.anomaly_model.child_job import Outcome
from linewatch.control_plane.jobs.preparation import finish
from linewatch.control_plane.states import DATASET, JOB, MODEL, PACKAGING, StateMachine
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import datasets, job_events, jobs, models, packagings, projects
from linewatch.control_plane.store.transitions import STATE_MACHINES, advance
from linewatch.control_plane.wire.service_model import operations


@pytest.mark.parametrize(("machine", "shape"), [(DATASET, "DatasetStatus"), (MODEL, "ModelStatus"),
                                               (PACKAGING, "ModelPackagingJobStatus")])  # fmt: skip
def test_states_are_those_of_the_model(machine: StateMachine, shape: str) -> None:
    service = operations("lookoutvision")["CreateProject"].model.service_model
    assert machine.states <= set(service.shape_for(shape).enum)


@pytest.mark.parametrize("machine", [DATASET, MODEL, PACKAGING, JOB])
def test_every_state_can_be_reached(machine: StateMachine) -> None:
    reached = set(machine.initial)
    for _ in machine.states:
        reached |= {target for sources, target in machine.events.values() if sources & reached}
    assert reached == machine.states


def test_nothing_stays_in_progress() -> None:
    for machine in (DATASET, MODEL, PACKAGING, JOB):
        for state in machine.states:
            if state.endswith("IN_PROGRESS") or state in ("TRAINING", "STARTING_HOSTING", "STOPPING_HOSTING", "RUNNING", "CREATED"):
                leads = any(state in sources for sources, _ in machine.events.values())
                assert leads or state == "DELETE_IN_PROGRESS", state


class Walk(RuleBasedStateMachine):
    """Events in any order on rows of a real store."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(f"sqlite:///{self.folder.name}/x.db")
        self.store.migrate()
        with self.store.write() as c:
            c.execute(sa.insert(projects).values(id=1, account="1" * 12, region="r", name="p", created=0))
            c.execute(sa.insert(datasets).values(id=1, project_id=1, kind="train", status="CREATE_IN_PROGRESS", created=0, updated=0))
            c.execute(sa.insert(models).values(id=1, project_id=1, version=1, status="TRAINING", created=0, output_bucket="b",
                                               output_prefix=""))  # fmt: skip
            c.execute(sa.insert(packagings).values(id=1, project_id=1, name="j", model_version=1, configuration={}, status="CREATED",
                                                   created=0, updated=0))  # fmt: skip
            c.execute(sa.insert(jobs).values(id=1, kind="train", subject_id=1, state="QUEUED", spec={}, created=0))
        self.expected = {"dataset": "CREATE_IN_PROGRESS", "model": "TRAINING", "packaging": "CREATED", "job": "QUEUED"}
        self.events = 0

    @rule(data=data())
    def event(self, data: Any) -> None:
        from hypothesis.strategies import sampled_from

        subject = data.draw(sampled_from(sorted(STATE_MACHINES)))
        machine = STATE_MACHINES[subject][1]
        event = data.draw(sampled_from(sorted(machine.events)))
        allowed = self.expected[subject] in machine.sources(event)
        with self.store.write() as c:
            assert advance(c, subject, 1, event, message="m") is allowed
        if allowed:
            self.expected[subject] = machine.target(event)
            self.events += subject == "job"

    @invariant()
    def the_store_says_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as c:
            for subject, (table, _, column) in STATE_MACHINES.items():
                assert c.execute(sa.select(table.c[column])).scalar() == self.expected[subject]
            assert c.execute(sa.select(sa.func.count()).select_from(job_events)).scalar() == self.events

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_row_that_is_gone_does_not_advance(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/x.db")
    store.migrate()
    with store.write() as c:
        assert not advance(c, "model", 5, "trained")
    store.close()


def test_a_model_that_is_no_better_than_chance_is_trained_and_its_message_says_so(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/x.db")
    store.migrate()
    job: Any = SimpleNamespace(id=1, kind="train", subject_id=1)
    result = {"performance": {"F1Score": 0.6}, "evaluation_manifest": "m", "evaluation_result": "r", "warning": "The model is not better"}
    with store.write() as c:
        c.execute(sa.insert(projects).values(id=1, account="1" * 12, region="r", name="p", created=0))
        c.execute(sa.insert(models).values(id=1, project_id=1, version=1, status="TRAINING", created=0, output_bucket="b", output_prefix="o/"))
        finish(c, SimpleNamespace(work=threading.Event()), job, Outcome(result=result))  # type: ignore[arg-type]
        found = c.execute(sa.select(models)).one()
    store.close()
    assert (found.status, found.message, found.evaluation_result) == ("TRAINED", "The model is not better", "o/r")
