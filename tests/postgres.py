"""PostgreSQL as Debian has it, started for the tests, on a Unix socket only."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"


def find_programs() -> Path | None:
    """Folder of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


@contextmanager
def running_postgres(programs: Path) -> Iterator[str]:
    """Start a server with an empty cluster; gives the address of its database."""
    folder = Path(tempfile.mkdtemp(prefix="linewatch-postgres-"))
    # PostgreSQL refuses to run as root.
    become: dict[str, object] = {}
    if os.getuid() == 0:
        account = pwd.getpwnam(USER)
        os.chown(folder, account.pw_uid, account.pw_gid)
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **become}
    subprocess.run(
        [programs / "initdb", "-D", folder / "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"], check=True, **quiet
    )
    process = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"], **quiet
    )
    try:
        deadline = time.monotonic() + 30
        while not (folder / ".s.PGSQL.5432").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield f"postgresql://{USER}@/{{name}}?host={folder}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
