"""Processes that tests look at and end, by their ids."""

import contextlib
import os
import random
import socket
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens at, from below those that the kernel hands out: nobody gets it by chance before its taker does."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, lowest), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # of a process that ends at this moment
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # of a thread that does
                found += [int(p) for p in (task / "children").read_text().split()]
    return found


def named(pid: int, words: str) -> bool:
    """Whether a process's command line has these words."""
    try:
        return words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def agent_pid(address: str) -> int:
    """The agent that this process started on a socket; others may run beside it."""
    [pid] = [pid for pid in children(os.getpid()) if named(pid, address)]
    return pid


def bridge_pid(address: str) -> int:
    """Its bridge."""
    [pid] = [pid for pid in children(agent_pid(address)) if named(pid, "edge_agent.bridge")]
    return pid


def worker_pids(address: str | None = None) -> list[int]:
    """Workers of an agent, or of all agents that this process started."""
    agents = children(os.getpid()) if address is None else [agent_pid(address)]
    return [worker for agent in agents for worker in children(agent) if named(worker, "edge_agent.worker")]
