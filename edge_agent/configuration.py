"""A component's configuration as settings: names, types, and which changes need no restart. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.settings import Settings

LIVE = frozenset({
    "autostart", "restarts", "removal_s", "rescan_s", "idle_stop_s", "other_sizes", "row_padding", "concurrency", "threads", "cpus", "queue",
    "worker_user", "worker_mib", "confine", "start_timeout_s", "call_timeout_s", "free_mib", "log_calls", "runtime", "measured", "results",
    "results_keep", "results_local_topic", "results_iot_topic", "mqtt", "mqtt_topic", "mqtt_ca", "mqtt_certificate", "mqtt_key", "mqtt_user",
    "stop_grace_s",
})  # fmt: skip
"""Settings that take effect while the agent runs; those of workers at a model's next start."""
_FOR_THE_INSTALLER = frozenset({"Python", "accessControl"})


def key_of(setting: str) -> str:
    """What a setting is called in a component's configuration: socket_group is SocketGroup."""
    return "".join(part.capitalize() for part in setting.split("_"))


KEYS = {key_of(name): name for name in Settings.__struct_fields__}


def configured(base: Settings, values: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Settings with a component's configuration over them, and the keys that nobody knows.

    Cores write scalars as they like: numbers as strings or floats, booleans as strings.

    Raises:
        SettingsError: a value is wrong; names its key.
    """
    known = {name: _plain(values[key]) for key, name in KEYS.items() if key in values}
    unknown = sorted(set(values) - set(KEYS) - _FOR_THE_INSTALLER)
    try:
        return msgspec.convert({**msgspec.to_builtins(base), **known}, Settings, strict=False), unknown
    except msgspec.ValidationError as error:
        raise SettingsError(f"the component's configuration: {error}; keys given: {', '.join(sorted(values))}") from error


def _plain(value: Any) -> Any:
    """Floats that are whole numbers as integers; numbers for settings that are text, as text, are msgspec's to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def changes(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Names of the settings that changed: those that take effect now, and those that need a restart."""
    changed = [name for name in Settings.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return [name for name in changed if name in LIVE], [name for name in changed if name not in LIVE]


def with_live_changes(old: Settings, new: Settings) -> Settings:
    """The old settings with those of the new ones that take effect now."""
    return msgspec.structs.replace(old, **{name: getattr(new, name) for name in LIVE})
