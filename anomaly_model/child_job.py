"""A job in a process of its own: `python -P -m linewatch.training.job FOLDER`, with spec.json in the folder.

The process writes progress.json while it works and outcome.json at its end, each whole or not at all, so that whoever
started it, or the one who comes after a crash, reads the truth from files. It ends with its parent: the parent holds the
other end of its standard input.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from linewatch.anomaly_model.errors import LinewatchError, Remedy
from linewatch.anomaly_model.files import replace_file

SPEC, PROGRESS, OUTCOME = "spec.json", "progress.json", "outcome.json"
_EVERY_S = 0.5
_NICE = 10
"""Jobs give way to the models that answer the line."""

T = TypeVar("T")


class JobProgress(msgspec.Struct, frozen=True):
    """What is being done, how many steps are done, and how many there are."""

    what: str
    done: int
    total: int


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job ended.

    Attributes:
        error: why it failed, for people; empty when it succeeded.
        fault: the failure is ours, not the data's: the log has the trace.
        remedies: what can be done about the error, beyond what it says.
        result: what a job that succeeded found.
    """

    error: str = ""
    fault: bool = False
    remedies: list[Remedy] = []
    result: dict[str, Any] = {}


class ProgressFile:
    """Writes progress, not more often than anybody reads it."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._what = path, 0.0, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        moment = time.monotonic()
        if what != self._what or moment - self._last >= _EVERY_S:
            self._last, self._what = moment, what
            replace_file(self._path, msgspec.json.encode(JobProgress(what, done, total)))


def read_progress(folder: Path) -> JobProgress | None:
    """How far a job is; None before it began."""
    return _read(folder / PROGRESS, JobProgress)


def read_outcome(folder: Path) -> Outcome | None:
    """How a job ended; None while it has not."""
    return _read(folder / OUTCOME, Outcome)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def describe_fault(error: BaseException) -> str:
    """What may be told elsewhere of an error that is this machine's: its kind, and what the system calls it."""
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"internal error: {type(error).__name__}{reason}; the log on the server has more"


def end_with_parent() -> None:
    """End this process and its children when standard input closes: the parent holds the other end while it lives."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(
    job: Callable[[Any, ProgressFile], dict[str, Any]], spec_type: type[Any], arguments: list[str],
    user_errors: tuple[type[LinewatchError], ...] = (),
) -> int:  # fmt: skip
    """Run a job: read its spec, do it, write its outcome; returns the exit code.

    Args:
        job: takes the spec and where to report progress, returns its result.
        spec_type: of the spec.
        arguments: of the command line: the folder, and `--tied` when standard input is the parent's lifeline.
        user_errors: errors that whoever asked for the job can put right; they know nothing of this machine, so that their messages
            may go to somebody elsewhere. Of all others only the log has more than the kind.
    """
    folder = Path(arguments[0])
    if "--tied" in arguments:
        end_with_parent()
    os.nice(_NICE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        spec = msgspec.json.decode((folder / SPEC).read_bytes(), type=spec_type)
        outcome = Outcome(result=job(spec, ProgressFile(folder / PROGRESS)))
    except user_errors as error:
        logging.error("%s", error)
        outcome = Outcome(error=str(error), remedies=list(error.remedies))
    # Whatever happens is the job's outcome: without one it would be tried again, to the same end.
    except Exception as error:
        logging.exception("the job failed")
        outcome = Outcome(error=describe_fault(error), fault=True)
    replace_file(folder / OUTCOME, msgspec.json.encode(outcome))
    return 1 if outcome.error else 0
