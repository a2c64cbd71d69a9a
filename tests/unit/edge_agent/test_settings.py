from pathlib import Path

import pytest

from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.api.sockets import socket_path
from linewatch.edge_agent.settings import Settings, load_settings


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('queue = 3\nthreads = 2\nmodels = "from-file"\n')
    settings = load_settings(
        file, {"LINEWATCH_AGENT_THREADS": "4", "LINEWATCH_AGENT_MODELS": "env"}, {"models": "flag", "queue": None}
    )
    assert (settings.queue, settings.threads, settings.models) == (3, 4, "flag")


def test_defaults() -> None:
    settings = load_settings(environment={})
    assert settings == Settings()
    assert settings.socket == "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
    assert settings.socket_mode == "0660"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"LINEWATCH_AGENT_COLOUR": "red"}, "unknown setting 'colour'.*known: models"),
        ({"LINEWATCH_AGENT_THREADS": "many"}, "threads from environment variable"),
        ({"LINEWATCH_AGENT_QUEUE": "0"}, ">= 1"),
        ({"LINEWATCH_AGENT_SOCKET_MODE": "rw"}, "socket_mode"),
        ({"LINEWATCH_AGENT_RUNTIME": "magic"}, "runtime"),
    ],
)
def test_wrong_settings_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(environment=environment)


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("= nonsense")
    with pytest.raises(SettingsError, match=r"x\.toml"):
        load_settings(tmp_path / "x.toml", {})


def test_addresses() -> None:
    assert socket_path("unix:///tmp/a.sock") == Path("/tmp/a.sock")
    assert socket_path("unix:/tmp/a.sock") == Path("/tmp/a.sock")
    assert socket_path("unix-abstract:name") is None
    for wrong in ("localhost:50051", "unix:///" + "x" * 120):
        with pytest.raises(SettingsError):
            socket_path(wrong)
