"""Wrong uses of the command line: each ends in one line that says what was found and what to do, and in an exit code."""

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from linewatch.anomaly_model.errors import LinewatchError, Remedy
from linewatch.commands.cli import main
from linewatch.commands.command_line import FLAGS, guarded
from linewatch.commands.system_errors import check_folder, explain

ROOT = Path(__file__).parents[3]
LONG = "x" * 300
QUICK = ("--side", "64", "--effort", "quick")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: pictures, `mixed` ones, a `file`, an `empty` folder, and a folder `full` of something else; a port is taken."""
    rng = np.random.default_rng(0)
    for folder, sizes in (("pictures", [(64, 64)] * 12), ("mixed", [(64, 64)] * 11 + [(80, 64)])):
        for i, (width, height) in enumerate(sizes):
            path = tmp_path / folder / ("anomaly" if i % 2 else "normal") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    (tmp_path / "mixed" / "normal" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "file").write_text("not json {")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "gone.manifest").write_text('{"source-ref": "s3://b/gone.png"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("linewatch.control_plane.server._configure_logs", lambda: None)  # it would take pytest's handlers away
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def last_line(result: Result, code: int) -> str:
    """The message of a wrong use; everything before it is progress, or how click says where help is."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line and not line.endswith("...")]
    if code == 2:
        lines = [line for line in lines if not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, lines
    assert len(lines[0]) < 700
    return lines[0]


FOLDER_NEEDED = r"file.*: a part of this path is a file, where a folder is needed.*Name another place"
NOTHING_THERE = r"^linewatch: /proc/.*: does not exist, or nothing can be made there.*Name another place"
TOO_LONG = r"longer than the file system allows.*Name a shorter one"


@pytest.mark.parametrize(("arguments", "found"), [
    # What cannot be written.
    (("demo-data", "file/x"), FOLDER_NEEDED), (("demo-data", "file"), FOLDER_NEEDED), (("demo-data", "/proc/x"), NOTHING_THERE),
    (("demo-data", LONG), TOO_LONG),
    (("demo", "--output", "file/x"), FOLDER_NEEDED), (("demo", "--output", "/proc/x"), NOTHING_THERE),
    (("keys", "create", "file/site.key"), "file: is there already and is no folder"), (("keys", "create", "/proc/site.key"), NOTHING_THERE),
    (("keys", "create", LONG), TOO_LONG),
    (("train", "pictures", "-o", "file/x"), FOLDER_NEEDED), (("train", "pictures", "-o", "file"), FOLDER_NEEDED),
    (("train", "pictures", "-o", "/proc/x"), NOTHING_THERE), (("train", "pictures", "-o", LONG), TOO_LONG),
    (("train", "pictures", "-o", "."), "name a folder in it"),
    (("train", "pictures", "-o", "b", "--results", "file"), FOLDER_NEEDED),
    (("train", "pictures", "-o", "full", *QUICK), "full exists and is not a bundle; choose another folder"),
    (("recalibrate", "empty", "pictures", "-o", "file/x"), FOLDER_NEEDED),
    (("package", "empty", "-o", "file/x"), FOLDER_NEEDED), (("package", "empty", "-o", "/proc/x"), NOTHING_THERE),
    (("agent-component", "--machine", "x86_64", "-o", "file/x"), FOLDER_NEEDED),
    (("serve", "--data", "file"), "file: is there already and is no folder.*Move it, or name another place"),
    (("serve", "--data", "/proc/x"), NOTHING_THERE), (("serve", "--data", "d", "--anonymous", "--objects", "file"), FOLDER_NEEDED),
    (("credentials", "create", "--data", "file"), "is there already and is no folder"),
    (("credentials", "list", "--data", "/proc/x"), NOTHING_THERE),
    (("client", "install", "--folder", "file/x"), "file/x cannot be written: Not a directory; name another folder"),
    (("restore", "file", "--data", "file"), "is there already and is no folder"),
    # What cannot be read, or is something else.
    (("demo", "--data", "empty"), "empty has no layout that is known here. Expected"),
    (("train", "empty", "-o", "b"), "no pictures in normal/ or anomaly/.*Put good parts into"),
    (("train", "binary", "-o", "b"), "binary line 1 is not a JSON object"),
    (("train", "gone.manifest", "-o", "b"), r"1 of 1 lines of gone.manifest.*gone.png \(line 1\)\. Copy the pictures there, or say with --root"),
    (("train", "pictures", "-o", "b", "--groups", "binary"), "binary is not a CSV file in UTF-8"),
    (("train", "pictures", "-o", "b", "--name", "a b"), "cannot be called 'a b' version '1': expected a name of letters"),
    (("train", "pictures", "-o", "b", "--model-version", "1.2"), "version '1.2': expected"),
    (("train", "pictures", "-o", "b", "--backbone", "resnet"), "'resnet' is not of the form timm:NAME"),
    (("recalibrate", "file", "pictures", "-o", "b"), "file is not a bundle: it has no bundle.json. Expected"),
    (("package", "file", "-o", "c"), "file is not a bundle"),
    (("package", "empty", "--target", "zx81", "-o", "c"), "unknown target 'zx81'; known targets"),
    (("package", "empty", "--compiler-options", "{", "-o", "c"), "are not a JSON object, such as"),
    (("package", "empty", "--sign", "file", "-o", "c"), "file is no private key.*make one with: linewatch keys create"),
    (("keys", "verify", "empty", "empty"), "empty holds no public keys"),
    (("publish", "empty", "--store", "s"), "empty holds no component.*make one with: linewatch package"),
    (("publish", "empty", "--bucket", "b"), "You must specify a region.* Name --region"),
    (("serve", "--settings", "file"), "settings file file cannot be read"),
    (("serve", "--database", "nonsense"), "expected sqlite:///PATH or postgresql://"),
    (("serve", "--data", "d", "--tls-certificate", "file", "--tls-key", "file"), "expected two PEM files that belong together"),
    (("serve", "--data", "d", "--tls-certificate", "none", "--tls-key", "none"), "cannot be used: No such file or directory"),
    (("credentials", "create", "--data", "d", "--policy", "binary"), "not a document of the form"),
    (("credentials", "delete", "NOSUCH", "--data", "d"), "there is no access key NOSUCH; `linewatch credentials list` shows"),
    (("backup", "b.tar", "--data", "empty"), "empty is empty or not a server's data folder"),
    (("restore", "file", "--data", "d"), "file is not a backup"),
    (("agent", "--settings", "binary"), "settings file binary cannot be read"),
])  # fmt: skip
def test_one_line_says_what_was_found_and_what_to_do(place: Path, arguments: tuple[str, ...], found: str) -> None:
    said = last_line(run(*arguments), 1)
    assert said.startswith("linewatch: ")
    assert re.search(found, said), said
    assert not (place / "b").exists()
    assert not list(place.glob("*.unfinished"))


@pytest.mark.parametrize(("arguments", "found"), [
    (("detect",), "Missing argument"), (("train", "nowhere", "-o", "b"), "'nowhere' does not exist"), (("train", "pictures"), "Missing option '-o'"),
    (("train", "pictures", "-o", "b", "--false-alarms", "2"), "2.0 is not in the range"),
    (("train", "pictures", "-o", "b", "--backbone-weights", "file"), "--backbone-weights needs --backbone, such as"),
    (("train", "pictures", "-o", "b", "--groups", "empty"), "'empty' is a directory"),
    (("serve", "--settings", "empty"), "'empty' is a directory"), (("restore", "empty", "--data", "d"), "'empty' is a directory"),
    (("doctor", "--models", "file"), "'file' is a file"), (("publish", "empty"), "give either --store or --bucket"),
    (("package", "empty", "--tag", "x", "-o", "c"), "'x' is not of the form KEY=VALUE"), (("polish",), "No such command 'polish'"),
])  # fmt: skip
def test_a_command_that_cannot_be_understood_is_code_two(place: Path, arguments: tuple[str, ...], found: str) -> None:
    assert found in last_line(run(*arguments), 2)


def test_no_agent_is_code_three(place: Path) -> None:
    for arguments in (("detect", "pictures/normal/0.png", "--model", "m"), ("top", "--once")):
        assert "start one with: linewatch agent" in last_line(run(*arguments, "--socket", f"unix://{place}/none.sock"), 3)


@pytest.mark.parametrize(("arguments", "found"), [
    (("serve", "--data", "d", "--anonymous", "--port", "PORT"), "127.0.0.1:PORT cannot be bound: it is in use"),
    (("agent", "--models", "empty", "--socket", "unix:///proc/a.sock"), "cannot be bound (No such file or directory); does its folder exist"),
])  # fmt: skip
def test_addresses_that_cannot_be_taken(place: Path, port: int, arguments: tuple[str, ...], found: str) -> None:
    command = [sys.executable, "-m", "linewatch", *(part.replace("PORT", str(port)) for part in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert found.replace("PORT", str(port)) in done.stderr
    assert "Traceback" not in done.stderr


def test_backups_need_a_place(place: Path) -> None:
    assert run("credentials", "create", "--data", "d").exit_code == 0
    assert "Not a directory" in last_line(run("backup", "file/b.tar", "--data", "d"), 1)
    assert "nothing can be made there" in last_line(run("backup", "/proc/b.tar", "--data", "d"), 1)


def test_pictures_that_do_not_go_together_are_named_with_the_flags_that_help(place: Path) -> None:
    refused = run("train", "mixed", "-o", "b", *QUICK)
    assert refused.exit_code == 1
    assert "1 of 13 pictures or their masks cannot be read: normal/broken.png is not a PNG or JPEG" in refused.stderr
    assert "80x64: anomaly/11.png" in refused.stderr
    assert "train --skip-unreadable` leaves out" in refused.stderr
    assert "train --resize` takes pictures of several sizes" in refused.stderr
    assert not (place / "b").exists()


def test_every_remedy_has_its_flag() -> None:
    assert set(FLAGS) == set(Remedy)

    @guarded
    def fails() -> None:
        raise LinewatchError("it is so", Remedy.OTHER_VERSION)

    said = CliRunner().invoke(click.command()(fails))
    assert said.stderr == "linewatch: it is so. Package it with another --component-version\n"


def test_faults_of_ours_keep_their_trace(tmp_path: Path) -> None:
    import linewatch.commands.cli

    for own in (linewatch.commands.cli.__file__, Path(linewatch.__file__).with_name("recipes") / "agent.json"):
        assert explain(FileNotFoundError(errno.ENOENT, "No such file or directory", str(own))) is None
    assert explain(OSError(errno.EBADF, "Bad file descriptor", str(tmp_path))) is None
    assert explain(FileNotFoundError(errno.ENOENT, "No such file or directory")) is None
    assert explain(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None
    assert explain(OSError(errno.EROFS, "Read-only file system", "/mnt/x")) == (
        "/mnt/x: lies on a file system that is read-only (Read-only file system). Name another place"
    )
    assert "no space left" in str(explain(OSError(errno.ENOSPC, "No space left on device")))


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_user_without_rights_is_told(tmp_path: Path) -> None:
    assert run("keys", "create", str(tmp_path / "first.key")).exit_code == 0  # and now everything is imported
    os.seteuid(65534)
    try:
        done = run("keys", "create", str(tmp_path / "site.key"))
    finally:
        os.seteuid(0)
    assert "this user may not use it (Permission denied). Change its owner or mode" in last_line(done, 1)


def test_a_reader_that_ends_ends_us_quietly(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "linewatch", "credentials", "create", "--data", str(place / "d")], stdout=writing,
                          stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_the_output(place: Path) -> None:
    assert run("credentials", "create", "--data", "d").exit_code == 0
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "linewatch", "credentials", "list", "--data", str(place / "d")], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("linewatch: no space left")
    assert "Traceback" not in done.stderr
