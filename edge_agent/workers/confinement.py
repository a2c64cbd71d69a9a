"""What a worker gives up before it sees the first picture: new privileges, network, other processes, writing files.

Model code comes from elsewhere, and pictures from anyone who may call. A worker needs its memory, its channels to the agent, and
descriptors that the agent hands it; the kernel (seccomp) refuses the rest with EPERM. Reading files stays allowed: libraries load
parts of themselves late, and what is read cannot leave. Numbers of system calls are those of the kernel's tables.
"""

import ctypes
import os
import platform
import resource
import struct
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUALS, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments have 8 bytes each
_CLONE_THREAD = 0x00010000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_X32 = 0x40000000
_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class _Calls:
    """System calls of an architecture: refused always, opening with the index of its flags, those that start processes."""

    audit: int
    refused: tuple[int, ...]
    opens: dict[int, int]
    clone: int
    clone3: int = 435
    openat2: int = 437


# fmt: off
_X86_64 = _Calls(
    audit=0xC000003E,
    refused=(
        41, 42, 43, 49, 50, 53, 288,  # socket, connect, accept, bind, listen, socketpair, accept4
        57, 58, 59, 322,  # fork, vfork, execve, execveat
        62, 200, 234, 424, 438, 101, 310, 311,  # kill, tkill, tgkill, pidfd_send_signal, pidfd_getfd, ptrace, process_vm_*
        76, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 133, 188, 189, 190,  # truncate to symlink, chmod, chown, mknod, setxattr
        258, 259, 260, 263, 264, 265, 266, 268, 316, 452,  # mkdirat, mknodat, fchownat, unlinkat, renameat, linkat, symlinkat, fchmodat, ...
        155, 161, 165, 166, 167, 168, 169, 175, 176, 246, 272, 308, 313, 320,  # mounts, roots, modules, reboot, namespaces
        248, 249, 250, 298, 303, 304, 321, 323, 425, 426, 427,  # keys, perf_event_open, file handles, bpf, userfaultfd, io_uring
    ),
    opens={2: 1, 257: 2},
    clone=56,
)
_AARCH64 = _Calls(
    audit=0xC00000B7,
    refused=(
        198, 199, 200, 201, 202, 203, 242,  # socket, socketpair, bind, listen, accept, connect, accept4
        221, 281,  # execve, execveat
        129, 130, 131, 424, 438, 117, 270, 271,  # kill, tkill, tgkill, pidfd_send_signal, pidfd_getfd, ptrace, process_vm_*
        5, 6, 7, 33, 34, 35, 36, 37, 38, 45, 52, 53, 54, 55, 276, 452,  # setxattr, mknodat to renameat, truncate, chmod, chown, renameat2
        39, 40, 41, 51, 97, 104, 105, 106, 142, 224, 225, 268, 273, 294,  # mounts, roots, modules, reboot, namespaces
        217, 218, 219, 241, 264, 265, 280, 282, 425, 426, 427,  # keys, perf_event_open, file handles, bpf, userfaultfd, io_uring
    ),
    opens={56: 2},
    clone=220,
)
# fmt: on
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def seccomp_program(machine: str) -> bytes:
    """The filter, as an array of struct sock_filter. Pure.

    Raises:
        KeyError: no table for this machine.
    """
    calls = _MACHINES[machine]
    program = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_EQUALS, calls.audit, 1, 0), _instruction(_RETURN, _KILL),
               _instruction(_LOAD, _NUMBER)]  # fmt: skip
    if machine == "x86_64":  # the same calls under other numbers
        program += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _ERRNO | _EPERM)]
    for number in (calls.clone3, calls.openat2):  # flags behind pointers cannot be looked at; C libraries then use the older call
        program += [_instruction(_EQUALS, number, 0, 1), _instruction(_RETURN, _ERRNO | _ENOSYS)]
    program += _unless_bits(calls.clone, 0, _CLONE_THREAD, refuse_if_set=False)
    for number, argument in calls.opens.items():
        program += _unless_bits(number, argument, _WRITES, refuse_if_set=True)
    for number in calls.refused:
        program += [_instruction(_EQUALS, number, 0, 1), _instruction(_RETURN, _ERRNO | _EPERM)]
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])


def _unless_bits(number: int, argument: int, bits: int, *, refuse_if_set: bool) -> list[bytes]:
    """Refuse a call by the bits of one of its arguments."""
    return [
        _instruction(_EQUALS, number, 0, 4),
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        _instruction(_HAS_BITS, bits, 0 if refuse_if_set else 1, 1 if refuse_if_set else 0),
        _instruction(_RETURN, _ERRNO | _EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def limit_resources(address_space_mib: int) -> None:
    """No core files, few descriptors, and a bound on memory of all kinds; 0 for none."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if address_space_mib:
        resource.setrlimit(resource.RLIMIT_AS, (address_space_mib * 1024 * 1024,) * 2)


def refuse_system_calls() -> None:
    """Install the filter in this process, for good.

    Raises:
        OSError: this kernel has no seccomp, or there is no table for this machine.
    """
    try:
        program = seccomp_program(platform.machine())
    except KeyError:
        raise OSError(f"no table of system calls for {platform.machine()}") from None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, None, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
    filter_ = _Program(len(program) // 8, program)
    # The thread-synchronising form covers threads of the runtimes' pools, which exist by now.
    if _seccomp_all_threads(libc, filter_) and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not available")


def _seccomp_all_threads(libc: ctypes.CDLL, filter_: _Program) -> bool:
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    libc.syscall.restype = ctypes.c_long
    return bool(libc.syscall(ctypes.c_long(number), ctypes.c_uint(1), ctypes.c_uint(1), ctypes.byref(filter_)))
