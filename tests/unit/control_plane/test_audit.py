"""The audit log: no line is lost or half written, whoever renames the file, and it does not grow for ever."""

import errno
import json
import os
import threading
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.control_plane.access.audit import AuditLog


def numbers(folder: Path) -> list[int]:
    """Of all lines of all files, in the order of the files' names."""
    files = [*sorted(folder.glob("audit.log-*")), folder / "audit.log"]
    return [json.loads(line)["n"] for path in files for line in path.read_text().splitlines()]


def test_a_full_file_gets_another_name_and_the_oldest_go(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", 100, 3, clock=lambda: 1.8e9)  # a clock that stands still
    for n in range(100):
        audit.write(n=n, text="x" * 30)
    audit.close()
    assert len(list(tmp_path.iterdir())) == 4
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 100))
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())


@given(st.lists(st.sampled_from(["write", "rename", "remove", "truncate", "gzip"]), max_size=30))
@settings(deadline=None, max_examples=50)
def test_what_logrotate_does_loses_nothing(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("audit")
    path, kept, written = folder / "audit.log", [], 0
    audit = AuditLog(path)
    for step in [*steps, "write"]:
        if step == "write":
            audit.write(n=written)
            written += 1
        elif path.exists():
            kept += path.read_text().splitlines()
            if step == "truncate":  # copytruncate
                os.truncate(path, 0)
            elif step == "rename":
                path.rename(folder / f"old-{len(kept)}")
            else:
                path.unlink()
                if step == "gzip":  # create
                    path.touch(0o640)
    audit.close()
    kept += path.read_text().splitlines()
    assert [json.loads(line)["n"] for line in kept] == list(range(written))


def test_threads_lose_nothing_while_it_rotates(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", 500, 0)
    threads = [threading.Thread(target=lambda k=k: [audit.write(n=1000 * k + i) for i in range(200)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert sorted(numbers(tmp_path)) == sorted(1000 * k + i for k in range(4) for i in range(200))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit, real = AuditLog(tmp_path / "audit.log"), os.write
    audit.write(n=0)
    with mock.patch("os.write", side_effect=lambda descriptor, data: real(descriptor, data[:3])):
        audit.write(n=1)
    assert os.strerror(errno.ENOSPC) in caplog.text
    audit.write(n=2)
    audit.close()
    assert numbers(tmp_path) == [0, 2]
