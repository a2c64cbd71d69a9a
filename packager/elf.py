"""What a shared library says of itself: architecture, the C library that it needs, and GPU code inside it."""

import re
from dataclasses import dataclass
from io import BytesIO

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from linewatch.anomaly_model.errors import LinewatchError

MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_NUMBERS = {62: "x86_64", 183: "aarch64"}
"""Architectures by their number in ELF's header."""
_CUDA = 190
"""ELF's number of NVIDIA's architecture."""
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")


class LibraryError(LinewatchError):
    """A shared library is not what was to be made."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a library says.

    Attributes:
        machine: as `uname -m` calls it.
        glibc: the newest version of the C library whose symbols it needs.
        libraries: other libraries that it loads.
    """

    machine: str
    glibc: tuple[int, int]
    libraries: tuple[str, ...]


def read_machine(header: bytes) -> str:
    """The architecture of a program or library, as `uname -m` calls it, from its first 64 bytes.

    Raises:
        LibraryError: not an ELF file of a known architecture.
    """
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        raise LibraryError("not an ELF file of 64 bits")
    number = int.from_bytes(header[18:20], "little")
    if number not in _NUMBERS:
        raise LibraryError(f"a program for ELF's architecture {number}; expected {' or '.join(_NUMBERS.values())}")
    return _NUMBERS[number]


def read_facts(data: bytes) -> Facts:
    """Read a shared library.

    Raises:
        LibraryError: not an ELF file of a known architecture.
    """
    try:
        elf = ELFFile(BytesIO(data))
        machine = MACHINES[elf["e_machine"]]
    except (ELFError, KeyError) as error:
        raise LibraryError(f"not a shared library for {' or '.join(MACHINES.values())}: {error}") from error
    newest = (2, 0)
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _, versions in section.iter_versions():
                for version in versions:
                    if found := _GLIBC.fullmatch(version.name):
                        newest = max(newest, (int(found[1]), int(found[2])))
    return Facts(machine, newest, tuple(needed_libraries(elf)))


def needed_libraries(elf: ELFFile) -> list[str]:
    """Names of the libraries that one loads."""
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    return [str(tag.needed) for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]


def check_library(data: bytes, machine: str, glibc: tuple[int, int]) -> Facts:
    """Refuse a library that the target cannot load.

    Raises:
        LibraryError: another architecture, or a C library that is newer than the target's.
    """
    facts = read_facts(data)
    if facts.machine != machine:
        raise LibraryError(f"the library is for {facts.machine}; expected {machine}. The linker is for another platform")
    if facts.glibc > glibc:
        raise LibraryError(
            f"the library needs glibc {facts.glibc[0]}.{facts.glibc[1]}; the target has {glibc[0]}.{glibc[1]}. Link it on, or for, an older system"
        )
    return facts


def find_cubins(data: bytes) -> list[str]:
    """Architectures (such as sm_72) of the GPU programs inside a library, from their own ELF headers."""
    found, start = [], data.find(b"\x7fELF", 4)
    while start >= 0:
        header = data[start : start + 64]
        if len(header) == 64 and int.from_bytes(header[18:20], "little") == _CUDA:
            found.append(f"sm_{int.from_bytes(header[48:52], 'little') & 0xFF}")
        start = data.find(b"\x7fELF", start + 4)
    return found
