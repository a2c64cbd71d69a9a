"""Where a training or packaging runs: in a child process below a dask worker, which calls `run_job`.

The folder of the job is the meeting place; a cluster's workers reach it under the same path. Its lock makes sure that two
attempts never run at the same time, whoever was killed and whoever believes whom dead: the kernel releases it with the last
process that holds it. An attempt that finds the work done returns what its predecessor found.
"""

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from linewatch.anomaly_model.child_job import OUTCOME, SPEC, Outcome, describe_fault, read_outcome
from linewatch.anomaly_model.errors import shorten
from linewatch.anomaly_model.files import replace_file
from linewatch.control_plane.jobs.missing import SHOWN
from linewatch.control_plane.objects import (
    InvalidNameError,
    Objects,
    ObjectsError,
    UnavailableError,
    is_foreign,
    split_address,
)
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.objects.s3 import S3Objects

log = logging.getLogger(__name__)

CANCEL, HEARTBEAT, LOCK, LOG, FINAL = "cancel", "heartbeat", "lock", "log", "final.json"
MODULES = {"train": "linewatch.training.job", "package": "linewatch.packager.job"}
_NOT_A_FILE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.ELOOP)
"""What a file system says of a key that cannot be a file, or is the folder of another."""
_HEARTBEAT_S = 0.5
_GRACE_S = 5
STOPPING = threading.Event()
"""Set when this process is about to end: its jobs end too, without an outcome, and go on elsewhere or later."""


class JobSpec(msgspec.Struct, frozen=True):
    """What a worker is told.

    Attributes:
        kind: train or package.
        folder: of the job.
        hours: after which it is ended.
        objects: folder of the buckets, or s3.
        endpoint: of S3.
        region: of S3.
        timeout_s: of S3.
        fetch: addresses of objects to bring to `pictures` in the folder first.
        upload: (file relative to the folder, or a pattern of files; bucket; key or prefix; content type) to store at the end.
        account: that the buckets must belong to, still.
    """

    kind: str
    folder: str
    hours: float
    objects: str
    endpoint: str
    region: str
    timeout_s: int
    fetch: list[str]
    upload: list[tuple[str, str, str, str]]
    account: str


def open_objects(objects: str, endpoint: str, region: str, timeout_s: int, account: str) -> Objects:
    """The buckets that settings name; those without an owner belong to the account.

    Args:
        objects: folder of the buckets, or s3.
        endpoint: of S3; empty for AWS's own.
        region: of S3.
        timeout_s: seconds without an answer of S3 after which it is asked again.
        account: twelve digits.
    """
    if objects == "s3":
        return S3Objects(endpoint or None, region, timeout_s, account)
    return DirectoryObjects(Path(objects), account)


def run_job(data: bytes) -> bytes:
    """Do a job, or find that an earlier attempt did it; called by dask.

    Args:
        data: a JobSpec as JSON.

    Returns:
        An Outcome as JSON.
    """
    spec = msgspec.json.decode(data, type=JobSpec)
    folder = Path(spec.folder)
    with _locked(folder) as lock, _heartbeats(folder, spec.hours * 3600):
        final = folder / FINAL
        if final.exists():
            return final.read_bytes()
        outcome = msgspec.json.encode(_attempt(spec, folder, lock))
        replace_file(final, outcome)
        return outcome


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Wait until no other attempt at this job is running; gives the lock's descriptor. Heartbeats are sent meanwhile."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _send_heartbeat(folder)
                time.sleep(_HEARTBEAT_S)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _heartbeats(folder: Path, seconds: float) -> Iterator[None]:
    """Send heartbeats from a thread of its own, however long a single object takes.

    Not for ever: an attempt that hangs in one call can be lost when the time that a job may take is over.
    """
    over = threading.Event()
    deadline = time.monotonic() + seconds + _GRACE_S

    def send() -> None:
        while not over.wait(_HEARTBEAT_S) and time.monotonic() < deadline:
            with suppress(OSError):  # the file system is away for a while: so is the heartbeat
                (folder / HEARTBEAT).touch()

    thread = threading.Thread(target=send, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _attempt(spec: JobSpec, folder: Path, lock: int) -> Outcome:
    objects = open_objects(spec.objects, spec.endpoint, spec.region, spec.timeout_s, spec.account)
    try:
        if not (folder / OUTCOME).exists():
            _stage_in(objects, spec, folder)
            _run_child(spec, folder, lock)
        outcome = read_outcome(folder) or Outcome(error="the process ended without an outcome; its log has more", fault=True)
        if not outcome.error:
            _stage_out(objects, spec, folder)
    except _CancelledError:
        return Outcome(error="cancelled")
    except _TimeoutError:
        return Outcome(error=f"it took over {spec.hours:g} hours, the most that the settings allow")
    except (UnavailableError, ChildKilledError, WorkerEndsError, OSError):
        raise  # may pass: another attempt
    except ObjectsError as error:
        return Outcome(error=str(error))
    except Exception as error:  # what was so once will be so again
        log.exception("job in %s", folder)
        return Outcome(error=describe_fault(error), fault=True)
    return outcome


class ChildKilledError(Exception):
    """The child was killed from outside: for want of memory, for one. Worth another attempt."""


class WorkerEndsError(Exception):
    """The worker's process is about to end."""


class _CancelledError(Exception):
    pass


class _TimeoutError(Exception):
    pass


def _send_heartbeat(folder: Path) -> None:
    """Show that the job is worked on, and look whether it still should be.

    Raises:
        _CancelledError: an operator cancelled the job.
        WorkerEndsError: this process is about to end.
    """
    if (folder / CANCEL).exists():
        raise _CancelledError
    if STOPPING.is_set():
        raise WorkerEndsError("the worker's process is about to end")
    (folder / HEARTBEAT).touch()


def _stage_in(objects: Objects, spec: JobSpec, folder: Path) -> None:
    """Bring the pictures; those that an earlier attempt brought are there.

    Raises:
        InvalidNameError: an address is not of the form s3://BUCKET/KEY.
        UnavailableError: the store does not answer.
        ObjectsError: a bucket belongs to another account now, or pictures or masks cannot be read.
        OSError: a picture cannot be written for another reason than its name, such as a full disk.
    """
    _require_own(objects, spec.account, {split_address(address)[0] for address in spec.fetch})
    missing = []
    for address in spec.fetch:
        bucket, key = split_address(address)
        _send_heartbeat(folder)
        try:
            target = (folder / "pictures" / bucket / key).resolve()
            if not target.is_relative_to((folder / "pictures").resolve()):
                raise InvalidNameError(f"{address} cannot be a file below a folder")
            if target.is_file():
                continue
            part = folder / "part"
            objects.fetch(bucket, key, part)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        except UnavailableError:
            raise
        except (ObjectsError, ValueError):  # not there; or a NUL byte, or not Unicode
            missing.append(address)
        except OSError as error:
            if error.errno not in _NOT_A_FILE:
                raise
            missing.append(address)
    if missing:
        shown = shorten([repr(address[:200]) for address in missing], SHOWN)
        raise ObjectsError(f"{len(missing)} of {len(spec.fetch)} pictures and masks cannot be read from S3: {shown}")


def _run_child(spec: JobSpec, folder: Path, lock: int) -> None:
    deadline = time.monotonic() + spec.hours * 3600
    with (folder / LOG).open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULES[spec.kind], str(folder), "--tied"], stdin=subprocess.PIPE, stdout=log_file,
            stderr=log_file, start_new_session=True, pass_fds=(lock,),  # while the child lives, so does the lock
        )  # fmt: skip
    try:
        while process.poll() is None:
            _send_heartbeat(folder)
            if time.monotonic() > deadline:
                raise _TimeoutError
            with suppress(subprocess.TimeoutExpired):
                process.wait(_HEARTBEAT_S)
    finally:
        _end(process)
    if process.returncode < 0:
        raise ChildKilledError(f"the process was ended by {signal.Signals(-process.returncode).name}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdin:
        process.stdin.close()


def _require_own(objects: Objects, account: str, buckets: set[str]) -> None:
    """Refuse buckets that another account has made since the call that asked for the job.

    Raises:
        ObjectsError: a bucket belongs to another account now.
    """
    for bucket in sorted(buckets):
        if is_foreign(objects, bucket, account):
            raise ObjectsError(f"the bucket {bucket} belongs to another account now")


def _stage_out(objects: Objects, spec: JobSpec, folder: Path) -> None:
    _require_own(objects, spec.account, {bucket for _, bucket, _, _ in spec.upload})
    for pattern, bucket, key, content_type in spec.upload:
        for path in sorted(folder.glob(pattern)):
            _send_heartbeat(folder)
            name = key + path.name if "*" in pattern else key
            objects.put(bucket, name, path, content_type)


def clean_up(folder: Path) -> None:
    """Remove what a finished job no longer needs: everything but its spec, log and outcome."""
    for name in ("pictures", "results", "output"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("*.manifest"):
        path.unlink()


def write_spec(folder: Path, spec: Any) -> None:
    """Put a job's spec into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / SPEC, msgspec.json.encode(spec))
