"""What libraries say of themselves: made by real compilers, read and refused."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.packager.elf import LibraryError, check_library, find_cubins, read_facts
from linewatch.packager.toolchain import compiler
from tests.toolchain import require_arm64


def built(folder: Path, machine: str, source: str = "int f(void) { return 1; }") -> bytes:
    (folder / "f.c").write_text(source)
    subprocess.run([compiler(machine), "-shared", "-fPIC", "-o", folder / "f.so", folder / "f.c"], check=True)
    return (folder / "f.so").read_bytes()


def test_own_library(tmp_path: Path) -> None:
    facts = read_facts(built(tmp_path, "x86_64", "#include <stdlib.h>\nvoid *f(void) { return malloc(1); }"))
    assert facts.machine == "x86_64"
    assert facts.glibc == (2, 2)  # malloc is as old as the 64-bit C library: GLIBC_2.2.5
    assert "libc.so.6" in facts.libraries


def test_a_library_for_another_machine_is_refused(tmp_path: Path) -> None:
    require_arm64()
    data = built(tmp_path, "aarch64")
    assert check_library(data, "aarch64", (2, 27)).machine == "aarch64"
    with pytest.raises(LibraryError, match="for aarch64; expected x86_64"):
        check_library(data, "x86_64", (2, 27))


def test_a_library_of_a_newer_system_is_refused(tmp_path: Path) -> None:
    data = built(tmp_path, "x86_64", '__asm__(".symver gettid, gettid@GLIBC_2.30"); int gettid(void); int f(void) { return gettid(); }')
    assert read_facts(data).glibc == (2, 30)
    with pytest.raises(LibraryError, match=r"needs glibc 2\.30; the target has 2\.27"):
        check_library(data, "x86_64", (2, 27))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    find_cubins(data)
    with pytest.raises(LibraryError):
        read_facts(data)


def header(machine: int, flags: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(28) + flags.to_bytes(4, "little") + bytes(12)


def test_cubins_are_found_by_their_headers() -> None:
    outer = header(62, 0)
    assert find_cubins(outer + b"xx" + header(190, 0x480548) + header(62, 0x48) + header(190, 0x57)) == ["sm_72", "sm_87"]
    assert find_cubins(outer) == []
    assert find_cubins(outer + b"\x7fELF") == []
