import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import SharedMemoryError
from edge_agent.shared_memory import SEGMENTS, open_segment, read_segment


@pytest.fixture
def segment() -> Iterator[str]:
    name = f"linewatch-test-{secrets.token_hex(6)}"
    (SEGMENTS / name).write_bytes(b"0123456789")
    yield name
    (SEGMENTS / name).unlink(missing_ok=True)


@pytest.mark.parametrize("prefix", ["", "/"])
def test_with_and_without_slash(segment: str, prefix: str) -> None:
    with open_segment(prefix + segment, 4, 6, needed=4, caller=os.getuid()) as opened:
        assert os.pread(opened.descriptor, opened.size, opened.offset) == b"6789"


def test_the_descriptor_is_closed(segment: str) -> None:
    with open_segment(segment, 1, 0, needed=1, caller=os.getuid()) as opened:
        descriptor = opened.descriptor
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.parametrize("name", ["", "/", "a/b", "../etc/passwd", "//x", ".", "..", "/..", "x\0y", "n" * 256])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(SharedMemoryError, match="not allowed"), open_segment(name, 1, 0, needed=1, caller=os.getuid()):
        pass


def test_missing() -> None:
    with pytest.raises(SharedMemoryError, match="does not exist"), open_segment("no-such-segment", 1, 0, needed=1, caller=os.getuid()):
        pass


def test_symlink_is_not_followed(segment: str, tmp_path: Path) -> None:
    link = SEGMENTS / f"{segment}-link"
    link.symlink_to(SEGMENTS / segment)
    try:
        with pytest.raises(SharedMemoryError, match="symbolic link"), open_segment(link.name, 1, 0, needed=1, caller=os.getuid()):
            pass
    finally:
        link.unlink()


def test_folder_and_pipe(segment: str) -> None:
    for make in (os.mkdir, os.mkfifo):
        path = SEGMENTS / f"{segment}-other"
        make(path)
        try:
            with pytest.raises(SharedMemoryError, match="not a plain segment"), open_segment(path.name, 1, 0, needed=1, caller=os.getuid()):
                pass
        finally:
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(("size", "offset"), [(11, 0), (10, 1), (1, 10), (1, 2**64 - 1), (2**64 - 1, 2**64 - 1)])
def test_past_the_end(segment: str, size: int, offset: int) -> None:
    with pytest.raises(SharedMemoryError, match="past its end"), open_segment(segment, size, offset, needed=1, caller=os.getuid()):
        pass


def test_smaller_than_the_picture(segment: str) -> None:
    with pytest.raises(SharedMemoryError, match="needs 9 bytes"), open_segment(segment, 8, 0, needed=9, caller=os.getuid()):
        pass


@given(st.text(max_size=300))
def test_no_name_reaches_outside(name: str) -> None:
    try:
        with open_segment(name, 0, 0, needed=0, caller=os.getuid()) as opened:
            where = Path(f"/proc/self/fd/{opened.descriptor}").readlink()
    except SharedMemoryError:
        return
    assert where.parent == SEGMENTS


def test_a_segment_of_another_user_is_refused_unless_everybody_may_open_it() -> None:
    name = f"linewatch-test-{os.getpid()}-{secrets.token_hex(4)}"
    path = SEGMENTS / name
    path.write_bytes(b"12345678")
    try:
        path.chmod(0o660)
        with pytest.raises(SharedMemoryError, match="belongs to user"), open_segment(name, 8, 0, needed=8, caller=os.getuid() + 1):
            pass
        path.chmod(0o664)
        with open_segment(name, 8, 0, needed=8, caller=os.getuid() + 1) as opened:
            assert os.pread(opened.descriptor, 8, 0) == b"12345678"
        with pytest.raises(SharedMemoryError, match="belongs to user"), open_segment(
            name, 8, 0, needed=8, caller=os.getuid() + 1, writable=True
        ):
            pass
    finally:
        path.unlink()


def test_reading_past_what_is_left_is_an_error(segment: str) -> None:
    buffer = memoryview(bytearray(6))
    with open_segment(segment, 6, 4, needed=6, caller=os.getuid()) as opened:
        read_segment(opened.descriptor, buffer, opened.offset)
        assert bytes(buffer) == b"456789"
        os.truncate(SEGMENTS / segment, 7)
        with pytest.raises(SharedMemoryError, match="ended at byte 7"):
            read_segment(opened.descriptor, buffer, opened.offset)
