"""Programs that run a model with nothing around it, several at the same time: what servers and agents are measured against."""

import subprocess
import sys
from collections.abc import Sequence


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
