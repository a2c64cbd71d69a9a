"""Processes that tests look at and end, by their ids."""

import os
from pathlib import Path

from benchmarks.processes import children


def agent_pid(address: str) -> int:
    """The agent that this process started on a socket; others may run beside it."""
    [pid] = children(os.getpid(), address)
    return pid


def bridge_pid(address: str) -> int:
    """Its bridge."""
    [pid] = children(agent_pid(address), "linewatch.edge_agent.bridge")
    return pid


def worker_pids(address: str | None = None) -> list[int]:
    """Workers of an agent, or of all agents that this process started."""
    agents = children(os.getpid()) if address is None else [agent_pid(address)]
    return [worker for agent in agents for worker in children(agent, "linewatch.edge_agent.workers.worker")]


def listeners(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which a process listens with TCP; addresses as the kernel writes them in hexadecimal."""
    folder = Path(f"/proc/{pid}")
    own = {str(fd.readlink()) for fd in (folder / "fd").iterdir() if fd.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (folder / "net" / table).read_text().splitlines()[1:]:
            local, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in own:
                address, _, port = local.partition(":")
                found.add((address, int(port, 16)))
    return found
