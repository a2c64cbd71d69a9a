"""Processes that benchmarks and tests start, look at and compare with."""

import contextlib
import os
import platform
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from linewatch.edge_agent.memory import resident_bytes

_GONE = (FileNotFoundError, ProcessLookupError)
"""What /proc says of a process that has ended: before its file is opened, and while it is read."""


def children(pid: int, words: str = "") -> list[int]:
    """Processes that a process started and that have these words in their command lines."""
    found = []
    with contextlib.suppress(*_GONE):  # of a process that ends at this moment
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(*_GONE):  # of a thread that does
                found += [int(p) for p in (task / "children").read_text().split()]
    return [child for child in found if named(child, words)]


def named(pid: int, words: str) -> bool:
    """Whether a process's command line has these words."""
    try:
        return words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except _GONE:
        return False


def resident_mib(pid: int) -> float:
    """See `linewatch.edge_agent.memory.resident_bytes`."""
    return resident_bytes(str(pid)) / 2**20


def resident_tree_mib(pid: int) -> float:
    """Memory of a process and of all below it; what they share counts for each."""
    return resident_mib(pid) + sum(resident_tree_mib(child) for child in children(pid))


def this_machine() -> str:
    """Processor, its widest instructions and how many there are: what every figure depends on."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    about = {name.strip(): value.strip() for name, value in facts.items()}
    flags = set(about.get("flags", about.get("Features", "")).split())
    widest = [name for flag, name in (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON")) if flag in flags]
    return f"{about.get('model name', platform.machine())} ({', '.join(widest)}), {os.cpu_count()} cores"


def free_port() -> int:
    """A port that nobody listens at, from below those that the kernel hands out: nobody gets it by chance before its taker does."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, lowest), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def run_together(program: str, arguments: Sequence[str], processes: int) -> list[float]:
    """Run a Python program in some processes, all from the same moment on; returns the number that each printed.

    The program says "ready" when it has warmed up, waits for a line, works, and prints its number.
    """
    command = [sys.executable, "-c", program, *arguments]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in running]
