"""Settings of a program: one frozen object, built once from defaults < TOML file < environment < flags."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from linewatch.anomaly_model.errors import LinewatchError

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(LinewatchError):
    """A setting is unknown or has a wrong value."""


def load_struct(
    kind: type[S],
    prefix: str,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Build a settings object.

    Args:
        kind: the struct; its fields are the settings.
        prefix: of environment variables; the field's name in capitals follows.
        file: TOML. A table's name is a prefix of its settings: `scheduler` in `[jobs]` is the setting `jobs_scheduler`.
        environment: by default the process's own.
        flags: of the command line; those that are None were not given.

    Raises:
        SettingsError: an unknown name (the known ones are listed) or a wrong value, and where it came from.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(name: str, value: Any, source: str) -> None:
        if name not in kind.__struct_fields__:
            raise SettingsError(f"unknown setting {name!r} in {source}; known: {', '.join(kind.__struct_fields__)}")
        values[name], sources[name] = value, source

    if file is not None:
        try:
            table = tomllib.loads(file.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file {file} cannot be read: {error}") from error
        for name, value in _flat(table):
            take(name, value, str(file))
    for key, value in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(prefix):
            take(key.removeprefix(prefix).lower(), value, f"environment variable {key}")
    for name, value in (flags or {}).items():
        if value is not None:
            take(name, value, f"--{name.replace('_', '-')}")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        given = ", ".join(f"{name} from {source}" for name, source in sources.items())
        raise SettingsError(f"{error}; settings given: {given}") from error


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{inner}", v) for inner, v in _flat(value))
        else:
            yield name, value
