"""Modules of ours, run in a process of their own: a crash of generated code is a message and not our end."""

import subprocess
import sys

_TAIL = 800


class ChildError(Exception):
    """A child did not do its work; its text says how it ended. Callers make an error of their own of it."""


def run_module(module: str, *arguments: str, timeout_s: int, given: bytes = b"") -> bytes:
    """`python -P -m module arguments`; returns what it wrote to standard output.

    Args:
        module: whose `__main__` part does the work.
        arguments: for it.
        timeout_s: seconds after which it is ended.
        given: to its standard input.

    Raises:
        ChildError: it took too long, or ended with another exit code than 0.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        result = subprocess.run(command, input=given, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise ChildError(f"did not end within {timeout_s} s") from None
    if result.returncode:
        said = " ".join(result.stderr.decode(errors="replace").strip().splitlines()[-3:])
        raise ChildError(f"exit code {result.returncode}; {said[-_TAIL:]}")
    return result.stdout
