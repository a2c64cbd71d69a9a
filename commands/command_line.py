"""What every command shares: options, examples, and errors that become a message and an exit code."""

import os
import select
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from linewatch.anomaly_model.errors import LinewatchError, Remedy
from linewatch.commands.system_errors import explain

FOLDER = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


EXTRAS = {
    **dict.fromkeys(("sklearn", "scipy", "jinja2", "onnx", "torch", "safetensors"), "train"),
    **dict.fromkeys(("awscrt", "awsiot", "google", "grpc", "grpc_health", "grpc_reflection", "hpack"), "agent"),
    **dict.fromkeys(("prometheus_client", "structlog", "tvm_ffi"), "agent"),
    **dict.fromkeys(("alembic", "boto3", "botocore", "httptools", "psycopg", "regex", "sqlalchemy", "uvicorn"), "server"),
    "distributed": "cluster",
    **dict.fromkeys(("tvm", "cyclonedx", "elftools", "cryptography"), "packager"),
}
"""Which extra brings a module that is missing."""


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


FLAGS = {
    Remedy.LEAVE_OUT: "`linewatch train --skip-unreadable` leaves out what cannot be read",
    Remedy.RESIZE: "`linewatch train --resize` takes pictures of several sizes, as the agent does",
    Remedy.NAME_ROOT: "Copy the pictures there, or say with --root where they lie",
    Remedy.HOLD_OUT_NONE: "Add pictures, name a test set with --test, or hold out none with --test-share 0",
    Remedy.FREE_SPACE: "Free space there",
    Remedy.OTHER_OUTPUT: "Name another --output",
    Remedy.OTHER_VERSION: "Package it with another --component-version",
}
"""What can be done, as flags."""
BROKEN_PIPE = 141
"""Whoever read our output has gone: what a shell says of a program that SIGPIPE ended."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors and the system's into a message and an exit code; anything else is a fault of ours and shows its trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except LinewatchError as error:
            between = "\n" if "\n" in str(error) else ". "  # a list of problems stands for itself
            click.echo(f"linewatch: {between.join([str(error), *(FLAGS[remedy] for remedy in error.remedies)])}", err=True)
            sys.exit(3 if getattr(error, "code", "") == "UNAVAILABLE" else 1)
        except KeyboardInterrupt:
            click.echo(
                "linewatch: stopped. Nothing half-written is left; train goes on where it was when called again", err=True
            )
            sys.exit(130)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                sys.exit(BROKEN_PIPE)
            said = explain(error)
            if said is None:
                raise
            click.echo(f"linewatch: {said}", err=True)
            sys.exit(1)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").split(".")[0])
            if extra is None:
                raise
            click.echo(
                f"linewatch: {error.name} is not installed; this command needs: pip install 'linewatch[{extra}]'", err=True
            )
            sys.exit(1)

    return run


def _nobody_reads() -> bool:
    """Whether standard output leads to a program that has ended, such as `head`; what is left of it is then dropped."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # none, as in tests
        return False
    watch = select.poll()
    watch.register(output, 0)
    gone = any(state & select.POLLERR for _, state in watch.poll(0))
    if gone:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)
    return gone


def print_json(value: object) -> None:
    """Print a result as JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
