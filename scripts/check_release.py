"""Install a release as users will: into empty environments, with each extra, by each Python at hand.

    python scripts/check_release.py dist
    python scripts/check_release.py dist --extras agent server --pythons python3.12

For each Python and extra: the wheel is installed with whatever the registry's newest fitting versions are, `pip check` finds no conflict,
the command starts, and the modules that the extra is for can be imported. Then once for each Python: the sdist, what lies at top level,
and the distribution `edge-agent`, which owns a package `edge_agent`, beside ours.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

EXTRAS = {
    "": "linewatch.anomaly_model.bundle, linewatch.commands.cli",
    "agent": "linewatch.edge_agent.server, linewatch.edge_agent.client",
    "packager": "linewatch.packager.package, linewatch.packager.agent_component",
    "train": "linewatch.training.train",
    "server": "linewatch.control_plane.server",
    "cluster": "distributed",
    "cuda": "linewatch.packager.gpu, linewatch.packager.targets",
}
"""Extra to the modules that must be importable with it."""
RESOLVED_ONLY = ("train", "cuda")
"""Gigabytes that are the same for each Python: installed once, for the others it is asked whether they could be."""
NEIGHBOUR = "edge-agent==0.4.0"
PYTHONS = ("python3.11", "python3.12", "python3.13")


class ReleaseError(Exception):
    """A release that cannot be used."""


def run(*command: str, cwd: Path | None = None) -> str:
    """A command's output.

    Raises:
        ReleaseError: it failed; with what it said.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def at_hand(names: list[str]) -> Iterator[str]:
    """Those of some Pythons that run here."""
    for name in names:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0:
            yield path
        else:
            print(f"{name}: not here", flush=True)


class Environment:
    """An empty environment of one Python."""

    def __init__(self, python: str, folder: Path) -> None:
        run(python, "-m", "venv", str(folder))
        self.folder, self.python = folder, str(folder / "bin" / "python")
        run(self.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "pip")

    def pip(self, *arguments: str) -> str:
        """Run its pip."""
        return run(self.python, "-m", "pip", *arguments)

    def code(self, text: str) -> str:
        """Run a line of Python outside the source tree."""
        return run(self.python, "-P", "-c", text, cwd=self.folder)

    def files(self, distribution: str) -> set[str]:
        """What a distribution has installed."""
        code = f"import importlib.metadata as m; print(*(str(f) for f in m.files({distribution!r})), sep='\\n')"
        return set(self.code(code).split("\n")) - {""}

    def top_level(self) -> set[str]:
        """What linewatch puts beside everybody else's packages."""
        return {f.split("/")[0] for f in self.files("linewatch") if not f.startswith("..") and ".dist-info" not in f}


def check_extra(python: str, wheel: Path, extra: str, *, resolve_only: bool) -> None:
    """Install with one extra and look.

    Raises:
        ReleaseError: a command failed, or the installed program says another version.
    """
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(python, Path(folder) / "env")
        if resolve_only:
            environment.pip("install", "-q", "--dry-run", wanted)
            return
        environment.pip("install", "-q", wanted)
        environment.pip("check")
        version = wheel.name.split("-")[1]
        said = run(str(environment.folder / "bin" / "linewatch"), "--version", cwd=environment.folder)
        if version not in said:
            raise ReleaseError(f"linewatch --version says {said.strip()!r}; expected {version}")
        environment.code(f"import {EXTRAS[extra]}")


def check_beside(python: str, sdist: Path, wheel: Path) -> None:
    """The sdist, one name at top level, and a neighbour that owns a package edge_agent.

    Raises:
        ReleaseError: a command failed, more than linewatch lies at top level, or both packages install the same file.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(python, Path(folder) / "env")
        environment.pip("install", "-q", f"{sdist}[agent]")
        found = environment.top_level()
        if found != {"linewatch"}:
            raise ReleaseError(f"the sdist installs {sorted(found)} at top level; expected linewatch only")
        environment.pip("install", "-q", NEIGHBOUR)
        environment.pip("install", "-q", "--force-reinstall", "--no-deps", str(wheel))  # whichever comes last
        if environment.top_level() != {"linewatch"}:
            raise ReleaseError(f"the wheel installs {sorted(environment.top_level())} at top level; expected linewatch only")
        environment.pip("check")
        environment.code("import edge_agent as theirs, linewatch.edge_agent.server as ours; assert 'linewatch' in ours.__file__; "
                         "assert 'linewatch' not in theirs.__file__")  # fmt: skip
        both = [environment.files(name) for name in ("linewatch", "edge-agent")]
        if both[0] & both[1]:
            raise ReleaseError(f"linewatch and {NEIGHBOUR} both install {sorted(both[0] & both[1])}")


def main() -> None:
    """Check everything and say how it went; exit code 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a wheel and an sdist")
    parser.add_argument("--extras", nargs="*", default=list(EXTRAS), choices=list(EXTRAS), help="default: all, and none")
    parser.add_argument("--pythons", nargs="+", default=list(PYTHONS))
    arguments = parser.parse_args()
    [wheel], [sdist] = arguments.folder.glob("linewatch-*.whl"), arguments.folder.glob("linewatch-*.tar.gz")
    failed = 0
    for number, python in enumerate(at_hand(arguments.pythons)):
        name = Path(python).name
        checks = [
            (f"[{e}]" if e else "alone", lambda e=e, n=number, p=python: check_extra(p, wheel, e, resolve_only=n > 0 and e in RESOLVED_ONLY))
            for e in arguments.extras
        ]
        checks.append((f"sdist, beside {NEIGHBOUR}", lambda p=python: check_beside(p, sdist, wheel)))
        for what, check in checks:
            begun = time.monotonic()
            try:
                check()
                print(f"{name} {what}: fine, {time.monotonic() - begun:.0f} s", flush=True)
            except ReleaseError as error:
                failed += 1
                print(f"{name} {what}: FAILED\n{error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
