"""What the server's own threads do: read manifests, apply updates, move and remove entries, remove models.

Each task may be run again from its beginning after a crash: what it changes for others to see, it changes in one
transaction together with the status.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.limits import LIMITS
from linewatch.control_plane.entries import Entry, EntryError, parse_entry
from linewatch.control_plane.errors import AccessDeniedError
from linewatch.control_plane.jobs.missing import describe_missing
from linewatch.control_plane.limits import ENTRY_LINE_BYTES
from linewatch.control_plane.objects import UnavailableError, read_lines
from linewatch.control_plane.operations.lookup import count
from linewatch.control_plane.rights import caller_of, require_readable
from linewatch.control_plane.services import Call, Services
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import Row, datasets, entries, models
from linewatch.control_plane.store.transitions import advance

_BATCH = 1000
_PARAMETERS = 500
"""Values in one IN list; databases bound it."""
MOVED_SHARE = 0.2
"""Share of the training entries that DistributeDatasetEntries moves."""


class BackgroundTaskError(LinewatchError):
    """A background task failed for a reason that the user is told."""


def import_manifest(services: Services, job: Row) -> None:
    """Fill a new dataset from its manifest.

    Raises:
        BackgroundTaskError: the manifest or a line of it is not allowed; the message says which.
        ObjectsError: the manifest cannot be read.
    """
    dataset_id, spec = job.subject_id, job.spec
    with services.store.write() as connection:
        row = connection.execute(sa.select(datasets).where(datasets.c.id == dataset_id)).first()
        if row is None or row.status != "CREATE_IN_PROGRESS":
            return
        connection.execute(sa.delete(entries).where(entries.c.dataset_id == dataset_id))  # of an attempt that was cut off
    where = f"s3://{spec['bucket']}/{spec['key']}"
    caller = _caller(services, job)
    with _told():
        caller.require_object("s3:GetObject", spec["bucket"], spec["key"])
    if services.objects.size(spec["bucket"], spec["key"], spec["version"]) > LIMITS.manifest_bytes:
        raise BackgroundTaskError(f"{where} is over the limit of {LIMITS.manifest_bytes} bytes")
    most = services.settings.most_pictures(row.kind)
    named: dict[str, str] = {}
    lines: dict[str, int] = {}
    addresses: list[str] = []
    bucket = ""
    with services.objects.open(spec["bucket"], spec["key"], spec["version"]) as stream:
        numbered = read_lines(stream, ENTRY_LINE_BYTES)
        while batch := list(islice(numbered, _BATCH)):
            rows = []
            for number, raw in batch:
                entry = _parse(raw, f"{where} line {number}")
                first = lines.setdefault(entry.source_ref, number)
                if first != number:
                    raise BackgroundTaskError(f"{where} line {number} names {entry.source_ref}, as line {first} does; name each once")
                bucket = bucket or entry.bucket
                if entry.bucket != bucket:
                    raise BackgroundTaskError(
                        f"{where} line {number} names a picture in bucket {entry.bucket}, line 1 in {bucket}; all pictures of a "
                        "dataset lie in one bucket"
                    )
                if len(lines) > most:
                    raise BackgroundTaskError(f"{where} has over {most} pictures, the most that the settings allow a {row.kind} dataset")
                named |= dict.fromkeys(entry.read_in_training, f"line {number}")
                rows.append(_values(dataset_id, entry))
                addresses += [entry.source_ref, *entry.masks]
            with services.store.write() as connection:
                connection.execute(sa.insert(entries), rows)
    if not lines:
        raise BackgroundTaskError(f"{where} has no lines; expected a JSON object a line")
    with _told():
        require_readable(caller, addresses)
    message = describe_missing(services.objects, named)
    with services.store.write() as connection:
        advance(connection, "dataset", dataset_id, "imported", message=message)


def import_failed(connection: Connection, job: Row, reason: str) -> None:
    """The dataset stays, empty, and says why."""
    connection.execute(sa.delete(entries).where(entries.c.dataset_id == job.subject_id))
    advance(connection, "dataset", job.subject_id, "import failed", message=reason)


def update_entries(services: Services, job: Row) -> None:
    """Apply the lines of a call: all of them or none.

    Raises:
        BackgroundTaskError: a line is not allowed; nothing was applied.
    """
    path = services.settings.folder / "changes" / job.spec["changes"]
    dataset_id = job.subject_id
    with services.store.read() as connection:
        row = connection.execute(sa.select(datasets).where(datasets.c.id == dataset_id)).first()
    if row is not None and row.status == "UPDATE_IN_PROGRESS":
        changed = _read_changes(path)
        caller = _caller(services, job)
        with _told():
            require_readable(caller, (a for e in changed.values() for a in (e.source_ref, *e.masks)))
        message = describe_missing(services.objects, {name: "" for entry in changed.values() for name in entry.read_in_training})
        with services.store.write() as connection:
            _check_bucket(connection, dataset_id, changed.values())
            _upsert(connection, services.store.is_sqlite, [_values(dataset_id, e) for e in changed.values()])
            _check_count(services, connection, row)
            advance(connection, "dataset", dataset_id, "updated", message=message)
    path.unlink(missing_ok=True)


def _read_changes(path: Path) -> dict[str, Entry]:
    """Entries by source-ref; of two lines for one picture the last one counts.

    Raises:
        BackgroundTaskError: the lines were not kept, there are none, or one of them is malformed.
    """
    changed = {}
    try:
        with path.open("rb") as stream:
            for number, raw in read_lines(stream, ENTRY_LINE_BYTES):
                entry = _parse(raw, f"line {number} of Changes")
                changed[entry.source_ref] = entry
    except FileNotFoundError:  # a backup has none: they were being applied when it was made
        raise BackgroundTaskError("the lines of this update were not kept; send them again") from None
    if not changed:
        raise BackgroundTaskError("Changes has no lines; expected a JSON object a line")
    return changed


def update_failed(connection: Connection, job: Row, reason: str) -> None:
    """Nothing was applied: rolling back is a change of status."""
    for event in ("update failed", "rolled back"):
        advance(connection, "dataset", job.subject_id, event, message=reason)


def _caller(services: Services, job: Row) -> Call:
    with _told():
        return caller_of(services, job.spec)


@contextmanager
def _told() -> Iterator[None]:
    """What the caller may not do is told as any other reason.

    Raises:
        BackgroundTaskError: the block raised AccessDeniedError.
    """
    try:
        yield
    except AccessDeniedError as error:
        raise BackgroundTaskError(str(error)) from None


def _parse(raw: bytes, where: str) -> Entry:
    try:
        return parse_entry(raw)
    except EntryError as error:
        raise BackgroundTaskError(f"{where} {error}") from None


def _values(dataset_id: int, entry: Entry) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id, "source_ref": entry.source_ref, "line": entry.line, "anomaly_class": entry.anomaly_class,
        "created": now() if entry.created is None else entry.created,
    }  # fmt: skip


def _check_bucket(connection: Connection, dataset_id: int, changed: Iterable[Entry]) -> None:
    first = connection.execute(sa.select(entries.c.source_ref).where(entries.c.dataset_id == dataset_id).limit(1)).scalar()
    bucket = first.split("/")[2] if first else None
    for entry in changed:
        bucket = bucket or entry.bucket
        if entry.bucket != bucket:
            raise BackgroundTaskError(f"{entry.source_ref} lies in another bucket than the dataset's pictures, {bucket}")


def _check_count(services: Services, connection: Connection, row: Row) -> None:
    most, total = services.settings.most_pictures(row.kind), count(connection, entries, entries.c.dataset_id == row.id)
    if total > most:
        raise BackgroundTaskError(f"the dataset would have {total} pictures; the settings allow a {row.kind} dataset {most}")


def _upsert(connection: Connection, is_sqlite: bool, rows: Sequence[dict[str, Any]]) -> None:
    insert: Any = (sqlite if is_sqlite else postgresql).insert(entries)
    replaced = {name: insert.excluded[name] for name in ("line", "anomaly_class", "created")}
    connection.execute(insert.on_conflict_do_update(index_elements=["dataset_id", "source_ref"], set_=replaced), rows)


def distribute(services: Services, job: Row) -> None:
    """Move a fifth of the training entries, of each class, to the empty test dataset; one transaction."""
    train_id, test_id = job.subject_id, job.spec["test"]
    with services.store.write() as connection:
        status = connection.execute(sa.select(datasets.c.status).where(datasets.c.id == train_id)).scalar()
        if status != "UPDATE_IN_PROGRESS":
            return
        query = sa.select(entries.c.id, entries.c.source_ref, entries.c.anomaly_class).where(entries.c.dataset_id == train_id)
        chosen = choose_fifth([(r.id, r.source_ref, r.anomaly_class) for r in connection.execute(query)])
        for part in _parts(chosen, _PARAMETERS):
            connection.execute(sa.update(entries).where(entries.c.id.in_(part)).values(dataset_id=test_id))
        for dataset_id in (train_id, test_id):
            advance(connection, "dataset", dataset_id, "updated")


def distribute_failed(connection: Connection, job: Row, reason: str) -> None:
    """Nothing was moved."""
    for dataset_id in (job.subject_id, job.spec["test"]):
        for event in ("update failed", "rolled back"):
            advance(connection, "dataset", dataset_id, event, message=reason)


def choose_fifth(rows: Sequence[tuple[int, str, str | None]]) -> list[int]:
    """Ids of a fifth of the entries of each class, rounded half up, at least one of each.

    Args:
        rows: id, source-ref and class. The same rows give the same choice: it goes by a hash of the source-ref.
    """
    strata: dict[str | None, list[tuple[str, int]]] = {}
    for row_id, source_ref, anomaly_class in rows:
        digest = hashlib.sha256(source_ref.encode()).hexdigest()
        strata.setdefault(anomaly_class, []).append((digest, row_id))
    chosen = []
    for members in strata.values():
        share = max(1, int(len(members) * MOVED_SHARE + 0.5))
        chosen += [row_id for _, row_id in sorted(members)[:share]]
    return sorted(chosen)


def _parts(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def purge(services: Services, job: Row) -> None:
    """Remove a deleted dataset's entries, in steps, so that nobody waits long for the database."""
    while True:
        with services.store.write() as connection:
            some = sa.select(entries.c.id).where(entries.c.dataset_id == job.subject_id).limit(10 * _BATCH)
            if connection.execute(sa.delete(entries).where(entries.c.id.in_(some))).rowcount == 0:
                connection.execute(sa.delete(datasets).where(datasets.c.id == job.subject_id, datasets.c.kind.is_(None)))
                return


def delete_model(services: Services, job: Row) -> None:
    """Remove a model's files, and then the model."""
    shutil.rmtree(services.settings.folder / "models" / str(job.subject_id), ignore_errors=True)
    with services.store.write() as connection:
        connection.execute(sa.delete(models).where(models.c.id == job.subject_id, models.c.status == "DELETING"))


BACKGROUND_TASKS: dict[str, tuple[Callable[[Services, Row], None], Callable[[Connection, Row, str], None] | None]] = {
    "import": (import_manifest, import_failed),
    "update": (update_entries, update_failed),
    "distribute": (distribute, distribute_failed),
    "purge": (purge, None),
    "delete_model": (delete_model, None),
}
"""What does each kind of task, and what is to be done when it failed for good; None: it is tried until it succeeds."""

WORTH_RETRYING = (UnavailableError, sa.exc.OperationalError)
"""Failures that may pass."""
