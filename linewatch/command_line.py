"""What every command shares: options, examples, and errors that become a message and an exit code."""

import errno
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from anomaly_model.errors import LinewatchError

FOLDER = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)


EXTRAS = {
    **dict.fromkeys(("sklearn", "scipy", "jinja2", "onnx", "torch", "safetensors"), "train"),
    **dict.fromkeys(("awscrt", "awsiot", "google", "grpc", "grpc_health", "grpc_reflection", "prometheus_client", "structlog", "tvm_ffi"), "agent"),
    **dict.fromkeys(("alembic", "boto3", "botocore", "httptools", "psycopg", "regex", "sqlalchemy", "uvicorn"), "server"),
    "distributed": "cluster",
    **dict.fromkeys(("tvm", "cyclonedx", "elftools", "cryptography"), "packager"),
}
"""Which extra brings a module that is missing."""


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into a message and an exit code; anything else is a fault of ours and shows its trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except LinewatchError as error:
            click.echo(f"linewatch: {error}", err=True)
            sys.exit(3 if getattr(error, "code", "") == "UNAVAILABLE" else 1)
        except KeyboardInterrupt:
            click.echo(
                "linewatch: stopped. Nothing half-written is left; train goes on where it was when called again", err=True
            )
            sys.exit(130)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            place = f" while writing {error.filename}" if error.filename else ""
            click.echo(
                f"linewatch: no space left{place} ({error.strerror}). Free some and try again; nothing half-written is left",
                err=True,
            )
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


def print_json(value: object) -> None:
    """Print a result as JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
