"""`python -P -m linewatch.control_plane.hosting.end_with_parent COMMAND...`: run a command that ends when the process that started it does.

The kernel sends the signal, so it works when the parent is killed with -9. It counts the thread that started us as the
parent: that thread must live as long as the process should.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
