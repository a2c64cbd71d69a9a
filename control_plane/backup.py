"""Backup and restore of what the server knows: database, models, and the master key. Objects are files: copy them as files."""

import tarfile
import tempfile
from pathlib import Path

import msgspec
import sqlalchemy as sa

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.access.credentials import KEY_FILE
from linewatch.control_plane.limits import BACKUP_BYTES, BACKUP_FILES
from linewatch.control_plane.server import only_server
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import metadata

_TABLES, _MODELS = "tables", "models"
_ROWS = 1000


class BackupError(LinewatchError):
    """A backup cannot be made or used."""


def back_up(settings: Settings, target: Path) -> None:
    """Write a backup; the server may be running.

    Args:
        settings: of the server.
        target: a .tar file that is not there yet. Whoever reads it can make every secret: only its owner may.

    Raises:
        BackupError: `target` exists, or there is nothing to back up: the data folder or the database is empty.
    """
    if target.exists():
        raise BackupError(f"{target} exists; name another file")
    if not (settings.folder / KEY_FILE).is_file():
        raise BackupError(f"{settings.folder} is empty or not a server's data folder; there is nothing to back up")
    store = Store(settings.database_url)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".linewatch-backup-") as scratch:
            folder = Path(scratch)
            if store.revision() is None:
                raise BackupError(f"the database {store.url!r} is empty; there is nothing to back up")
            _dump(store, folder)
            part = folder / "backup.tar"
            with tarfile.open(part, "w") as archive:
                archive.add(folder / _TABLES, _TABLES)
                archive.add(settings.folder / KEY_FILE, KEY_FILE)
                if (settings.folder / _MODELS).is_dir():
                    archive.add(settings.folder / _MODELS, _MODELS)
            part.chmod(0o600)
            part.replace(target)
    finally:
        store.close()


def _dump(store: Store, folder: Path) -> None:
    """All tables as JSON Lines, of one moment."""
    (folder / _TABLES).mkdir()
    (folder / _TABLES / "revision").write_text(store.revision() or "")
    with store.read(snapshot=True) as connection:
        for table in metadata.sorted_tables:
            with (folder / _TABLES / f"{table.name}.jsonl").open("wb") as stream:
                for row in connection.execution_options(yield_per=_ROWS).execute(sa.select(table)).mappings():
                    stream.write(msgspec.json.encode(dict(row)) + b"\n")


def restore(settings: Settings, source: Path) -> None:
    """Put a backup into an empty data folder and an empty database.

    Raises:
        BackupError: they are not empty, or the file is not a backup of this schema.
    """
    with only_server(settings.folder):
        store = Store(settings.database_url)
        try:
            if store.revision() is not None or (settings.folder / KEY_FILE).exists():
                raise BackupError(
                    f"{settings.folder} or {store.url!r} is not empty; a backup is restored to an empty folder and database"
                )
            with tempfile.TemporaryDirectory(dir=settings.folder, prefix=".restore-") as scratch:
                folder = Path(scratch)
                _unpack(source, folder)
                store.migrate()
                found = (folder / _TABLES / "revision").read_text()
                if found != store.revision():
                    raise BackupError(
                        f"the backup is of schema {found}, this program makes {store.revision()}; restore it with the version that "
                        "made it, and let this one migrate it then"
                    )
                _load(store, folder)
                if (folder / _MODELS).is_dir():
                    (folder / _MODELS).replace(settings.folder / _MODELS)
                (folder / KEY_FILE).chmod(0o600)
                (folder / KEY_FILE).replace(settings.folder / KEY_FILE)
        finally:
            store.close()


def _unpack(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source) as archive:
            files, size = 0, 0
            for member in archive:
                files, size = files + 1, size + member.size
                if files > BACKUP_FILES or size > BACKUP_BYTES:
                    raise BackupError(f"{source} is larger than a backup can be")
                archive.extract(member, folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{source} is not a backup: {str(error).splitlines()[0]}") from error
    if not (folder / _TABLES / "revision").is_file() or not (folder / KEY_FILE).is_file():
        raise BackupError(f"{source} is not a backup of Linewatch")


def _load(store: Store, folder: Path) -> None:
    with store.write() as connection:
        for table in metadata.sorted_tables:
            with (folder / _TABLES / f"{table.name}.jsonl").open("rb") as stream:
                rows = []
                for line in stream:
                    rows.append(msgspec.json.decode(line, type=dict[str, object]))
                    if len(rows) == _ROWS:
                        connection.execute(sa.insert(table), rows)
                        rows = []
                if rows:
                    connection.execute(sa.insert(table), rows)
            if not store.is_sqlite and "id" in table.c:
                # Rows came with their numbers: the sequence must go on behind them.
                name = sa.literal(table.name)
                last = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0) + 1).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(name, "id"), last, sa.false())))
