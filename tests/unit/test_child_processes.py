"""Processes of ours execute what is installed, and nothing that lies in the folder in which they are started."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from linewatch.anomaly_model.child_job import Outcome
from linewatch.control_plane.jobs.worker import JobSpec, run_job

ROOT = Path(__file__).parents[2]
STARTED = re.compile(r'(?:sys\.executable,|bin/python"|"\$python")\s+"?(-[\w-]+)"?,?\s+"?([\w-]*)')
FOLDERS = ("anomaly_model", "edge_agent", "packager", "training", "control_plane", "commands", "jetson", "scripts", "benchmarks")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh")]


def test_every_module_is_started_without_the_current_folder_on_its_path() -> None:
    started = [(path.name, *found) for path in SOURCES for found in STARTED.findall(path.read_text())]
    assert len([s for s in started if s[2] == "-m"]) >= 10
    assert not [s for s in started if s[1] == "-m"], "python -m takes modules from the current folder first; use python -P -m"


def test_nothing_below_the_command_line_starts_it() -> None:
    rooms = [ROOT / name for name in FOLDERS if name not in ("commands", "jetson", "scripts", "benchmarks")]
    sources = [path for room in rooms for path in (*room.rglob("*.py"), room / "device" / "run.sh") if path.is_file()]
    mentions = re.compile(r"""linewatch\.commands|-m["',\s]+linewatch(?![\w.])|bin/linewatch\b""")
    assert mentions.search('[sys.executable, "-P", "-m", "linewatch", "agent"]')
    assert mentions.search("python -P -m linewatch agent")
    assert not mentions.search('"-m", "linewatch.edge_agent"')
    assert len(sources) > 150
    assert not [str(path) for path in sources if mentions.search(path.read_text())]


@pytest.mark.slow
def test_a_job_executes_nothing_that_lies_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, folder, mark = tmp_path / "here", tmp_path / "job", tmp_path / "mark"
    for name in ("linewatch/__init__.py", "linewatch/training/__init__.py", "linewatch/training/job.py", "numpy.py", "msgspec.py", "logging.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")
    folder.mkdir()
    (folder / "spec.json").write_text("{}")
    monkeypatch.chdir(here)
    spec = JobSpec("train", str(folder), 1, str(tmp_path / "objects"), "", "r", 1, [], [], "111122223333")
    outcome = msgspec.json.decode(run_job(msgspec.json.encode(spec)), type=Outcome)
    assert "ValidationError" in outcome.error  # our own training read the spec
    assert not mark.exists()


def test_grandchildren_that_libraries_start_inherit_it() -> None:
    code = "import multiprocessing, subprocess; print(subprocess._args_from_interpreter_flags())"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "-P" in done.stdout
