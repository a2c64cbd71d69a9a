"""`linewatch detect` with many pictures."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from linewatch.commands.agent_commands import detect
from linewatch.edge_agent import client
from linewatch.edge_agent.client import AgentCallError
from linewatch.edge_agent.protos import edge_agent_pb2 as pb


class FakeAgent:
    """Finds bright pictures anomalous, and fails as it is told."""

    failures: ClassVar[dict[int, str]] = {}

    def __init__(self, _: str) -> None:
        pass

    def __enter__(self) -> "FakeAgent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, model: str) -> None:
        pass

    def detect(self, picture: Any, model: str, transport: str) -> tuple[Any, None]:
        value = int(picture[0, 0, 0])
        if value in self.failures:
            raise AgentCallError(self.failures[value], "because")
        return pb.DetectAnomalyResult(is_anomalous=value > 100, confidence=0.9, anomaly_score=value), None


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(client, "AgentClient", FakeAgent)
    monkeypatch.setattr(FakeAgent, "failures", {})
    for i, value in enumerate((10, 200, 20, 30)):
        Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(4)]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(detect, [*arguments, "--model", "parts"])


def test_it_goes_on_after_what_cannot_be_judged(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path(pictures[0]).write_bytes(b"no picture")
    monkeypatch.setattr(FakeAgent, "failures", {20: "INTERNAL"})
    done = run(*pictures)
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ANOMALY", "normal"]
    first, second, last = done.stderr.splitlines()
    assert pictures[0] in first
    assert f"{pictures[2]}: INTERNAL: because" in second
    assert "2 of 4 pictures could not be judged" in last


def test_with_json_each_picture_has_a_line(pictures: list[str]) -> None:
    Path(pictures[1]).write_bytes(b"no picture")
    done = run(*pictures, "--json", "--fail-on-anomaly")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == pictures
    assert ["error" in line for line in lines] == [False, True, False, False]
    assert done.exit_code == 1, "an unknown picture is worse than a bad part"


def test_it_ends_where_the_next_picture_would_fare_no_better(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeAgent, "failures", {200: "UNAVAILABLE"})
    done = run(*pictures)
    assert done.exit_code == 3
    assert len(done.stdout.splitlines()) == 1


def test_exit_codes_when_all_are_judged(pictures: list[str]) -> None:
    assert run(*pictures).exit_code == 0
    assert run(*pictures, "--fail-on-anomaly").exit_code == 4
