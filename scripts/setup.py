"""Make .venv and install what the locks list, telling which package it is at, how many there are and how many megabytes.

    python3 scripts/setup.py demo      what make demo needs: linewatch with the extras train, packager and agent
    python3 scripts/setup.py dev       besides: server, GPU compilers, tests, checks, documents
    python3 scripts/setup.py bench     besides: what benchmarks compare with

Standard library only, as there is nothing else yet. Whatever goes wrong ends in one sentence and exit code 1; what pip said is
kept in .venv/setup.log. A download that is cut goes on where it was; what is whole is kept in pip's cache for the next try.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
OLDEST = (3, 11)
LOCKS = {
    "demo": ("constraints.txt",),
    "dev": ("constraints.txt", "constraints-dev.txt"),
    "bench": ("constraints.txt", "constraints-dev.txt", "constraints-bench.txt"),
}
TORCH = {"cpu": "constraints-cpu.txt", "cuda": "constraints-cuda.txt"}
"""torch's build for processors only, where pip finds one, and the registry's, with CUDA's libraries."""
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+) .*\n(?:    .*\n?)*", re.MULTILINE)
SIZE = re.compile(r"^    # ([0-9.]+) MB$", re.MULTILINE)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Name or service not known|Temporary failure in name resolution|ConnectTimeoutError|"
    r"ConnectionTimeoutError|Network is unreachable|Connection refused|ProxyError|Failed to connect|Failed to resolve|"
    r"Cannot connect to proxy|Connection to \S+ timed out"
)
CUT = re.compile(r"Read timed out|IncompleteRead|Connection broken|incomplete-download|ConnectionResetError|ProtocolError")
FETCHED = re.compile(r"\s*(?:Resuming download|Downloading|Using cached|Processing) (?:\S*/)?([^/\s]+?)-\d\S*\.(?:whl|tar\.gz)\b")
_QUIET_S = 10.0


class SetupError(Exception):
    """Set-up cannot go on; the text is for whoever waits for it."""


@dataclass(frozen=True)
class Package:
    """An entry of a lock."""

    name: str
    version: str
    megabytes: float
    """To download, for the machine that the lock was made on."""


def read_lock(text: str) -> dict[str, Package]:
    """Entries of a lock by name; a size is the comment at the end of an entry."""
    found = {}
    for entry in ENTRY.finditer(text):
        size = SIZE.search(entry[0])
        found[entry[1]] = Package(entry[1], entry[2], float(size[1]) if size else 0.0)
    return found


def entry_of(text: str, name: str) -> str:
    """The lines of one package in a lock."""
    return next(entry[0] for entry in ENTRY.finditer(text) if entry[1] == name)


@dataclass
class Progress:
    """What pip's lines say of how far it is.

    One line that is written over on a terminal; elsewhere, as in a log, a line each ten seconds and for each large package.
    """

    wanted: dict[str, Package]
    stream: TextIO
    done: set[str] = field(default_factory=set)
    now: str = ""
    received_mb: float = 0.0
    size_mb: float = 0.0
    _shown: float = -_QUIET_S
    _width: int = 0

    def line(self, text: str) -> None:
        """Take a line of pip's."""
        if found := re.match(r"Progress (\d+) of (\d+)", text):
            self.received_mb, self.size_mb = int(found[1]) / 1e6, int(found[2]) / 1e6
            self._show(now=False)
        elif found := FETCHED.match(text):
            self._begin(found[1])
        elif "Attempting to resume incomplete download" in text:
            self._say(f"the connection was cut; going on with {self.now or 'the download'}")
        elif text.startswith("Installing collected packages:"):
            self.done = set(self.wanted)
            self._say(f"installing {len(text.split(','))} packages, which takes a minute")

    def _begin(self, distribution: str) -> None:
        if self.now:
            self.done.add(self.now)
        self.now = re.sub(r"[-_.]+", "-", distribution).lower()
        self.received_mb = 0.0
        self.size_mb = self.wanted[self.now].megabytes if self.now in self.wanted else 0.0
        self._show(now=self.size_mb >= 20)

    def summary(self) -> str:
        """Which package, how many, how many megabytes."""
        whole = sum(p.megabytes for p in self.wanted.values())
        have = sum(self.wanted[n].megabytes for n in self.done if n in self.wanted) + self.received_mb
        number = min(len(self.done & set(self.wanted)) + 1, len(self.wanted))
        this = f"{self.now}, {self.received_mb:.0f} of {self.size_mb:.0f} MB" if self.size_mb >= 1 else self.now
        return f"package {number} of {len(self.wanted)}, {min(have, whole):.0f} of about {whole:.0f} MB: {this}"

    def _show(self, *, now: bool) -> None:
        terminal = self.stream.isatty()
        if not terminal and not now and time.monotonic() - self._shown < _QUIET_S:
            return
        self._shown = time.monotonic()
        text = self.summary()
        if terminal:
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _say(self, text: str) -> None:
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Leave the line that was written over."""
        if self._width:
            self.stream.write("\n")
            self._width = 0


def reason(output: str, machine: str) -> str:
    """One sentence on why pip failed, and what to do."""
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if CUT.search(output) and not NO_NETWORK.search(output):
        return "the connection broke off more often than pip tries again; run the same command again, and it goes on after the last whole package"
    if NO_NETWORK.search(output):
        return ("no network: the package index could not be reached; connect this machine, or name a proxy in HTTPS_PROXY or a mirror in "
                "PIP_INDEX_URL, and run the same command again")  # fmt: skip
    if "No space left on device" in output:
        return f"the disk is full; set-up needs 2 GB below {VENV.parent} and in pip's cache"
    if "DO NOT MATCH THE HASHES" in output:
        return "a package is not the one that the lock names; a proxy or mirror gives other files, so nothing of it was installed"
    if missing:
        return f"there is no {missing[1]} for {machine}; name another Python of 3.11 to 3.13 with make PYTHON=python3.11"
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ") if errors else "pip failed"


def pip(arguments: Iterable[str], wanted: dict[str, Package] | None = None) -> str:
    """Run pip of .venv, show how far it is, and return what it said.

    Raises:
        PipError: it failed.
    """
    command = [str(PYTHON), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    progress = Progress(wanted, sys.stdout) if wanted else None
    lines = []
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        for text in process.stdout:
            if progress:
                progress.line(text)
            if not text.startswith("Progress "):
                lines.append(text)
                log.write(text)
                log.flush()
    if progress:
        progress.end()
    output = "".join(lines)
    if process.wait():
        raise PipError(output)
    return output


class PipError(SetupError):
    """pip failed; the text is what it said."""


def check_machine() -> None:
    """Refuse what Linewatch has no packages for.

    Raises:
        SetupError: Python is too old, or the system is not Linux.
    """
    if sys.version_info < OLDEST:
        others = [name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)]
        use = f"run make PYTHON={others[0]} ..." if others else "install python3.11 or newer"
        raise SetupError(f"Linewatch needs Python 3.11 or newer, and this is {platform.python_version()}; {use}")
    if sys.platform != "linux":
        raise SetupError(f"Linewatch needs Linux on x86-64 or ARM64, and this is {platform.system()} on {platform.machine()}")


def make_environment() -> None:
    """Make .venv, unless there is one whose Python runs.

    Raises:
        SetupError: the virtual environment cannot be made.
    """
    if PYTHON.exists() and subprocess.run([str(PYTHON), "-c", ""], capture_output=True, check=False).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "venv", str(VENV)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode and os.geteuid() == 0 and (apt := shutil.which("apt-get")):
        # Debian and Ubuntu split venv from Python.
        print("fetching python3-venv", flush=True)
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "python3-venv"]):
            subprocess.run([apt, *arguments], stdout=subprocess.DEVNULL, check=False)
        shutil.rmtree(VENV, ignore_errors=True)
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        said = (made.stdout + made.stderr).strip().splitlines()
        raise SetupError("venv is missing; run: sudo apt-get install python3-venv" if "ensurepip" in "".join(said)
                         else f"{sys.executable} makes no virtual environment: {said[-1] if said else 'no reason given'}")  # fmt: skip


def installed() -> dict[str, str]:
    """What .venv has: name to version."""
    code = ("import importlib.metadata as m, re\n"
            "for d in m.distributions(): print(re.sub(r'[-_.]+', '-', d.metadata['Name']).lower(), d.version)")  # fmt: skip
    found = subprocess.run([str(PYTHON), "-I", "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in found.stdout.splitlines())


def update_pip() -> None:
    """The locked pip, which goes on with downloads that were cut."""
    text = (ROOT / "constraints.txt").read_text()
    if installed().get("pip") == read_lock(text)["pip"].version:
        return
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pip.txt"
        lock.write_text(entry_of(text, "pip"))
        pip(["install", "--quiet", "--timeout", "15", "--retries", "2", "--require-hashes", "-r", str(lock)])


def torch_builds() -> Iterator[str]:
    """Which build to try, the one that is there first."""
    kept = VENV / ".torch"
    first = kept.read_text().strip() if kept.exists() else "cpu"
    yield first
    if first == "cpu":
        yield "cuda"


def install(group: str) -> None:
    """Install a group's locks.

    Raises:
        PipError: pip failed, and no other build of torch can be tried.
    """
    have = installed()
    for build in torch_builds():
        files = [TORCH[build], *LOCKS[group]]
        locked = {name: p for file in files for name, p in read_lock((ROOT / file).read_text()).items()}
        wanted = {name: p for name, p in locked.items() if have.get(name, "").partition("+")[0] != p.version}
        if wanted:
            megabytes = sum(p.megabytes for p in wanted.values())
            print(f"set-up for {group}: {len(wanted)} packages, about {megabytes:.0f} MB to download unless pip has them already", flush=True)
        try:
            pip(["install", "--progress-bar", "raw", "--timeout", "30", "--retries", "5", "--resume-retries", "10", "--require-hashes",
                 *(part for file in files for part in ("-r", file))], wanted)  # fmt: skip
        except PipError as error:
            if build == "cpu" and "torch==" in str(error) and not NO_NETWORK.search(str(error)):
                print("pip finds no build of torch for processors only; taking the registry's, with CUDA's libraries", flush=True)
                continue
            raise
        (VENV / ".torch").write_text(build + "\n")
        return


def main() -> None:
    """Set up one group and leave its stamp."""
    group = sys.argv[1] if len(sys.argv) == 2 else ""
    if group not in LOCKS:
        sys.exit("usage: python3 scripts/setup.py demo|dev|bench")
    try:
        check_machine()
        make_environment()
        LOG.write_text("")
        update_pip()
        install(group)
        pip(["install", "--quiet", "--no-deps", "--no-build-isolation", "-e", "."])
    except PipError as error:
        machine = f"Python {'.'.join(platform.python_version_tuple()[:2])} on {platform.machine()}"
        sys.exit(f"set-up failed: {reason(str(error), machine)} (pip's own words: {LOG.relative_to(ROOT)})")
    except SetupError as error:
        sys.exit(f"set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nset-up was stopped; the same command goes on with what is missing")
    (VENV / f".{group}").touch()
    size = sum(p.lstat().st_size for p in VENV.rglob("*") if not p.is_dir())
    print(f"set-up for {group} is done: .venv has {len(installed())} packages, {size / 1e9:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
