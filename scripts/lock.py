"""Lock the dependencies, with hashes and sizes: what everybody installs, what developers add, torch in two builds, the tests' old clients.

    constraints.txt          what make demo installs: the extras train, packager and agent, and what builds linewatch itself
    constraints-dev.txt      what tests, checks and documents add
    constraints-bench.txt    what benchmarks add
    constraints-cpu.txt      torch's build for processors only
    constraints-cuda.txt     the registry's build of the same version, and the libraries of CUDA that it needs

No package stands in two files, so that each set-up is the sum of some of them. torch's builds are files of their own, as pip takes
what an index vouches for before a wheel of the same version at hand.

    python scripts/lock.py               locks what is new in pyproject.toml, and keeps every version that is locked already
    python scripts/lock.py --upgrade     takes the newest versions
"""

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {
    "constraints.txt": ("agent", "packager", "train", "build"),
    "constraints-dev.txt": ("cuda", "server", "cluster", "docs", "dev"),
    "constraints-bench.txt": ("bench",),
}
"""What each file adds to those before it."""
CLIENTS = ROOT / "tests" / "clients" / "requirements.in"
CLIENTS_LOCK = "tests/clients/constraints.txt"
CUDA = re.compile(r"^(nvidia-(?!cuda-nvrtc-cu1[12]\b)|cuda-|triton\b)")
"""What torch's build for CUDA brings along; the compilers of the extra `cuda` are the developers'."""
TORCH = "torch==2.13.0"
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+) ")


def pip(*arguments: str) -> None:
    """Run pip without this machine's own sources of wheels: the lock must say what everybody finds."""
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    subprocess.run([sys.executable, "-P", "-m", *arguments], check=True, cwd=ROOT, env=environment)


def name_of(entry: str) -> str:
    """The package that an entry locks."""
    return entry.partition("==")[0]


def compile_lock(kept: str, *sources: str, upgrade: bool = False) -> list[str]:
    """Entries of the registry's resolution of some sources, one text each.

    Args:
        kept: an earlier lock, whose versions stay as they are.
        sources: pip-compile's arguments.
        upgrade: take the newest versions instead.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lock.txt"
        target.write_text(re.sub(r"^    # [0-9.]+ MB\n", "", kept, flags=re.MULTILINE))
        pip("piptools", "compile", "-q", *(["--upgrade"] if upgrade else []), "--generate-hashes", "--strip-extras", "--allow-unsafe", "--no-header",
            "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", *sources, "-o", str(target))  # fmt: skip
        text = target.read_text().replace(f"{ROOT}/", "")  # no paths of this machine
    entries = [entry.rstrip() for entry in re.split(r"\n(?=[a-z#])", text.strip()) if re.match(r"[a-z]", entry)]
    return [entry for entry in entries if not entry.startswith("linewatch @")]  # named by its own extras


def cpu_hashes() -> list[Path]:
    """The CPU builds of torch that this machine has, downloaded to a folder that is the caller's to remove."""
    folder = Path(tempfile.mkdtemp())
    subprocess.run([sys.executable, "-P", "-m", "pip", "download", "-q", "--no-deps", TORCH, "-d", str(folder)], check=True)
    return list(folder.glob("torch-*cpu*.whl"))


def sizes(entries: list[str]) -> dict[str, int]:
    """Bytes to download of each entry, for the machine and Python that this runs on."""
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        pins.write_text("".join(f"{m[1]}=={m[2]}\n" for e in entries if (m := ENTRY.match(e))))
        # Without hashes pip looks at the packages' descriptions only.
        pip("pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--report", str(report), "-r", str(pins))
        found = json.loads(report.read_text())["install"]
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    answer = {}
    for one in found:
        request = urllib.request.Request(one["download_info"]["url"], method="HEAD")  # noqa: S310
        with urllib.request.urlopen(request, context=context, timeout=60) as response:  # noqa: S310
            answer[re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()] = int(response.headers["Content-Length"])
    return answer


def with_sizes(entries: list[str], known: dict[str, int]) -> list[str]:
    """Entries that end in a comment with the megabytes to download, for whoever shows progress."""
    return [f"{e}\n    # {max(known[name_of(e)] / 1e6, 0.01):.2f} MB" if name_of(e) in known else e for e in entries]


def main() -> None:
    """Write the files.

    Raises:
        SystemExit: pip finds no CPU build of torch.
    """
    upgrade = "--upgrade" in sys.argv[1:]
    old = {name: (ROOT / name).read_text() if (ROOT / name).exists() else "" for name in (*EXTRAS, "constraints-cuda.txt", CLIENTS_LOCK)}
    kept = "".join(text for name, text in old.items() if name != CLIENTS_LOCK)
    every = [f"--extra={extra}" for extras in EXTRAS.values() for extra in extras]
    whole = compile_lock(kept, *every, str(ROOT / "pyproject.toml"), upgrade=upgrade)
    clients = compile_lock(old[CLIENTS_LOCK], str(CLIENTS), upgrade=upgrade)
    builds = cpu_hashes()
    if not builds:
        raise SystemExit(f"pip finds no CPU build of {TORCH} here; name a folder that has one in PIP_FIND_LINKS")
    known = sizes(whole)
    cuda = [e for e in whole if CUDA.match(e) or e.startswith(TORCH)]
    files = {
        "constraints-cpu.txt": with_sizes(
            [" \\\n".join([TORCH, *(f"    --hash=sha256:{hashlib.sha256(p.read_bytes()).hexdigest()}" for p in builds)])],
            {"torch": builds[0].stat().st_size},
        ),
        "constraints-cuda.txt": with_sizes(cuda, known),
        CLIENTS_LOCK: clients,
    }
    told, extras = {name_of(e) for e in cuda}, []
    for name, added in EXTRAS.items():
        extras += [f"--extra={extra}" for extra in added]
        names = {name_of(e) for e in compile_lock("\n".join(whole) + "\n", *extras, str(ROOT / "pyproject.toml"))}
        files[name] = with_sizes([e for e in whole if name_of(e) in names - told], known)
        told |= names
    for name, parts in files.items():
        (ROOT / name).write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
