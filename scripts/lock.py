"""Lock the dependencies: constraints.txt for everybody, torch in two builds of one version, and the tests' old clients.

The registry's build of torch for x86-64 Linux needs CUDA's libraries (constraints-cuda.txt), a CPU build does not
(constraints-cpu.txt). Two files, as pip takes what an index vouches for before a wheel of the same version at hand.

    python scripts/lock.py
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("agent", "packager", "cuda", "train", "server", "bench", "dev")
CLIENTS = ROOT / "tests" / "clients" / "requirements.in"
CUDA = re.compile(r"^(nvidia-(?!cuda-nvrtc-cu1[12]\b)|cuda-|triton\b)")
"""What torch's build for CUDA brings along; the compilers of the extra `cuda` are for everybody."""
TORCH = "torch==2.13.0"


def compile_lock(*sources: str) -> list[str]:
    """Entries of the registry's resolution of some sources, one text each."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lock.txt"
        command = [sys.executable, "-P", "-m", "piptools", "compile", "-q", "--upgrade", "--generate-hashes", "--strip-extras",
                   "--allow-unsafe", "--no-header", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links",
                   *sources, "-o", str(target)]  # fmt: skip
        # Without this machine's own sources of wheels: the lock must say what everybody finds.
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        )
        text = target.read_text().replace(f"{ROOT}/", "")  # no paths of this machine
    entries = [entry for entry in re.split(r"\n(?=[a-z#])", text.strip()) if re.match(r"[a-z]", entry)]
    return [entry for entry in entries if not entry.startswith("linewatch @")]  # named by its own extras


def cpu_hashes() -> list[str]:
    """SHA-256 of the CPU build of torch, where this machine has one."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-P", "-m", "pip", "download", "-q", "--no-deps", TORCH, "-d", folder], check=True)
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).glob("torch-*cpu*.whl")]


def main() -> None:
    """Write the files."""
    entries = compile_lock(*(f"--extra={extra}" for extra in EXTRAS), str(ROOT / "pyproject.toml"))
    clients = compile_lock(str(CLIENTS))
    cpu = [f"    --hash=sha256:{value}" for value in cpu_hashes()]
    if not cpu:
        raise SystemExit(f"pip finds no CPU build of {TORCH} here; name a folder that has one in PIP_FIND_LINKS")
    files = {
        "constraints.txt": [e for e in entries if not CUDA.match(e) and not e.startswith(TORCH)],
        "constraints-cpu.txt": [" \\\n".join([TORCH, *cpu])],
        "constraints-cuda.txt": [e for e in entries if CUDA.match(e) or e.startswith(TORCH)],
        "tests/clients/constraints.txt": clients,
    }
    for name, parts in files.items():
        (ROOT / name).write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
