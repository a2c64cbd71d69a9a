"""Memory: how much there is, and the C library's allocator told what this program does with it."""

import ctypes
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS = 2
"""Pools of memory; by default glibc makes eight for each processor, and what one keeps the others cannot use."""
_LARGEST_THRESHOLD = 32 * 1024 * 1024
"""glibc takes no larger value for M_MMAP_THRESHOLD (HEAP_MAX_SIZE / 2 on 64-bit systems)."""


def keep_freed_memory() -> None:
    """Reuse freed memory instead of giving it back: new pages for each picture's buffers take longer than filling them.

    Other C libraries may lack the call, and do as they like then.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


def available_mib() -> int | None:
    """MemAvailable of this machine, in MiB."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    return None


def resident_bytes(pid: str) -> float:
    """Resident memory of a process; 0 when it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
