"""Processes that tests look at and end, by their ids."""

import os

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
