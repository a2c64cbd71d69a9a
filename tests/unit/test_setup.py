"""Set-up says how far it is, and why it cannot go on."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import setup

ROOT = Path(__file__).parents[2]
LOCK = """\
numpy==2.3.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via linewatch (pyproject.toml)
    # 16.62 MB
torch==2.13.0 \\
    --hash=sha256:cc
    # 190.00 MB
typing-extensions==4.15.0 \\
    --hash=sha256:dd
    # via torch
    # 0.04 MB
"""


def told(lines: list[str], stream: io.StringIO | None = None) -> setup.Progress:
    progress = setup.Progress(setup.read_lock(LOCK), stream or io.StringIO())
    for line in lines:
        progress.line(line)
    return progress


def test_a_lock_is_read_with_its_sizes() -> None:
    assert setup.read_lock(LOCK)["torch"] == setup.Package("torch", "2.13.0", 190.0)
    assert setup.entry_of(LOCK, "numpy").startswith("numpy==2.3.0 \\\n    --hash=sha256:aa")
    assert "torch" not in setup.entry_of(LOCK, "numpy")


def test_which_package_how_many_and_how_many_megabytes() -> None:
    progress = told([
        "Collecting numpy==2.3.0 (from -r constraints.txt (line 1))",
        "  Downloading numpy-2.3.0-cp311-cp311-manylinux_2_28_x86_64.whl (16.6 MB)", "Progress 16620000 of 16620000",
        "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.0 MB)", "Progress 44000000 of 190000000",
    ])  # fmt: skip
    assert progress.summary() == "package 2 of 3, 61 of about 207 MB: torch, 44 of 190 MB"


def test_what_pip_has_already_is_counted() -> None:
    progress = told([
        "  Using cached numpy-2.3.0-cp311-cp311-manylinux_2_28_x86_64.whl (16.6 MB)",
        "Processing /wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "  Downloading typing_extensions-4.15.0-py3-none-any.whl (44 kB)",
    ])  # fmt: skip
    assert progress.summary() == "package 3 of 3, 207 of about 207 MB: typing-extensions"


def test_a_cut_connection_is_told() -> None:
    stream = io.StringIO()
    told(["  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (190.0 MB)",
          "WARNING: Attempting to resume incomplete download (44.0 MB/190.0 MB, attempt 1)"], stream)  # fmt: skip
    assert "the connection was cut; going on with torch" in stream.getvalue()


@pytest.mark.parametrize(("said", "expected"), [
    ("WARNING: Retrying ... NameResolutionError(...)\nERROR: No matching distribution found for numpy==2.3.0", "no network"),
    ("WARNING: Retrying ... NewConnectionError(... Connection refused)\nERROR: Could not find a version", "no network"),
    ("ERROR: No matching distribution found for torch==2.13.0", "there is no torch==2.13.0 for Python 3.14 on x86_64"),
    ("ERROR: Exception:\n ReadTimeoutError: Read timed out.", "the connection broke off"),
    ("error: incomplete-download\n\nDownload failed because not enough bytes were received", "the connection broke off"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the one that the lock names"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
    ("ERROR: something new", "something new"), ("", "pip failed"),
])  # fmt: skip
def test_one_sentence_for_what_went_wrong(said: str, expected: str) -> None:
    sentence = setup.reason(said, "Python 3.14 on x86_64")
    assert expected in sentence
    assert "\n" not in sentence


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(setup.SetupError, match="needs Linux"):
        setup.check_machine()


def test_an_unknown_group_is_a_wrong_use() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "setup.py"), "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "usage: python3 scripts/setup.py demo|dev|bench\n"


def test_no_package_is_locked_twice_and_each_has_its_size() -> None:
    seen: dict[str, str] = {}
    for name in ("constraints.txt", "constraints-dev.txt", "constraints-bench.txt", "constraints-cpu.txt"):
        for package in setup.read_lock((ROOT / name).read_text()).values():
            assert package.name not in seen, f"{package.name} is in {name} and {seen[package.name]}"
            assert package.megabytes > 0, package
            seen[package.name] = name


def test_the_demo_gets_no_tests_compilers_of_gpu_code_and_server() -> None:
    demo = set(setup.read_lock((ROOT / "constraints.txt").read_text()))
    assert demo >= {"numpy", "grpcio", "apache-tvm", "scikit-learn", "hatchling", "pip"}
    assert not demo & {"pytest", "mypy", "openvino", "sphinx", "uvicorn", "sqlalchemy", "distributed", "ruff"}
    assert not [name for name in demo if name.startswith("nvidia")]


def test_make_makes_what_set_up_stamps() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"^\w+ := \.venv/\.(\w+)$", makefile, re.MULTILINE) == list(setup.LOCKS)
