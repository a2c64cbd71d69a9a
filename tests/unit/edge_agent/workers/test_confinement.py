"""What a confined process cannot do any more; each case is tried in a process of its own."""

import platform
import subprocess
import sys

import pytest

from linewatch.edge_agent.workers.confinement import seccomp_program

CASES = {
    "network": "import socket; socket.socket()",
    "new program": "import os; os.execv('/bin/true', ['true'])",
    "new process": "import os; os.fork()",
    "writing a file": "open(PATH, 'w')",
    "appending to a file": "open(PATH, 'a')",
    "removing a file": "import os; os.unlink(PATH)",
    "renaming a file": "import os; os.rename(PATH, PATH + '2')",
    "signals to others": "import os; os.kill(os.getppid(), 0)",
    "permissions": "import os; os.chmod(PATH, 0o777)",
}
PREPARE = "from linewatch.edge_agent.workers.confinement import *; import errno; limit_resources(2048); refuse_system_calls(); PATH = {path!r}\n"


def run(code: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PREPARE.format(path=path) + code], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("what", CASES)
def test_what_is_refused(what: str, tmp_path: object) -> None:
    path = tmp_path / "file"  # type: ignore[operator]
    path.write_text("before")
    code = f"try:\n    {CASES[what]}\nexcept PermissionError as error:\n    assert error.errno == errno.EPERM; print('refused')"
    done = run(code, str(path))
    assert done.stdout.strip() == "refused", done.stderr
    assert path.read_text() == "before"


def test_what_a_worker_needs_is_allowed(tmp_path: object) -> None:
    path = tmp_path / "file"  # type: ignore[operator]
    path.write_text("before")
    code = "import threading; assert open(PATH).read() == 'before'\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()"
    done = run(code, str(path))
    assert done.stdout.strip() == "thread", done.stderr


def test_memory_is_bounded() -> None:
    done = run("try:\n    bytearray(3 * 1024 ** 3)\nexcept MemoryError:\n    print('refused')", "")
    assert done.stdout.strip() == "refused", done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_programs_are_whole_for_both_machines(machine: str) -> None:
    program = seccomp_program(machine)
    assert len(program) % 8 == 0
    instructions = [program[i : i + 8] for i in range(0, len(program), 8)]
    for i, instruction in enumerate(instructions):
        if instruction[0] in (0x15, 0x35, 0x45):  # jumps land inside
            assert i + 1 + max(instruction[2], instruction[3]) < len(instructions)
    assert platform.machine() in ("x86_64", "aarch64")
