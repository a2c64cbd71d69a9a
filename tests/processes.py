"""Processes that tests look at and end, by their ids."""

import contextlib
import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # of a process that ends at this moment
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # of a thread that does
                found += [int(p) for p in (task / "children").read_text().split()]
    return found


def named(pid: int, module: str) -> bool:
    """Whether a process runs a module."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def worker_pids() -> list[int]:
    """Workers of agents that this process started."""
    return [w for agent in children(os.getpid()) for w in children(agent) if named(w, "edge_agent.worker")]
