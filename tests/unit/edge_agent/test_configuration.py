"""A component's configuration as settings."""

import pytest

from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.configuration import KEYS, LIVE, changes, configured, key_of, with_live_changes
from linewatch.edge_agent.settings import Settings, cpu_shares


def test_keys_are_the_settings_names_and_aws_s_own_is_among_them() -> None:
    assert key_of("socket_group") == "SocketGroup"
    assert KEYS["Socket"] == "socket"
    assert set(KEYS.values()) == set(Settings.__struct_fields__)
    assert set(Settings.__struct_fields__) >= LIVE


@pytest.mark.parametrize("queue", [4, "4", 4.0])
@pytest.mark.parametrize("flag", [True, "true", 1])
def test_cores_write_scalars_as_they_like(queue: object, flag: object) -> None:
    made, unknown = configured(Settings(), {"Queue": queue, "LogCalls": flag, "Python": "/usr/bin/python3.11", "Colour": "red"})
    assert (made.queue, made.log_calls) == (4, True)
    assert unknown == ["Colour"]


@pytest.mark.parametrize("values", [{"Queue": 0}, {"Queue": "many"}, {"Queue": 4.5}, {"SocketMode": "rw"}, {"Results": "some"}, {"Cpus": "a-b"}])
def test_wrong_values_are_refused_with_their_key(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        configured(Settings(), values)


def test_what_takes_effect_now() -> None:
    old, new = Settings(), Settings(queue=3, socket="unix:///tmp/other.sock", results="all")
    assert changes(old, new) == (["queue", "results"], ["socket"])
    changed = with_live_changes(old, new)
    assert (changed.queue, changed.results, changed.socket) == (3, "all", old.socket)


@pytest.mark.parametrize(("cpus", "workers", "shares"), [
    ("", 2, [[], []]), ("3", 1, [[3]]), ("0-3", 2, [[0, 2], [1, 3]]), ("1,4-5", 3, [[1], [4], [5]]), ("0-1", 3, [[0, 1]] * 3),
])  # fmt: skip
def test_shares_of_processors(cpus: str, workers: int, shares: list[list[int]]) -> None:
    assert cpu_shares(cpus, workers) == shares
