import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.edge_agent.errors import SharedMemoryError
from linewatch.edge_agent.workers.shared_memory import SEGMENTS, open_segment, read_rows, read_segment, row_stride


@pytest.fixture
def segment() -> Iterator[str]:
    name = f"linewatch-test-{secrets.token_hex(6)}"
    (SEGMENTS / name).write_bytes(b"0123456789")
    yield name
    (SEGMENTS / name).unlink(missing_ok=True)


@pytest.mark.parametrize("prefix", ["", "/"])
def test_with_and_without_slash(segment: str, prefix: str) -> None:
    with open_segment(prefix + segment, 4, 6, rows=(4, 1), caller=os.getuid()) as opened:
        assert os.pread(opened.descriptor, opened.size, opened.offset) == b"6789"


def test_the_descriptor_is_closed(segment: str) -> None:
    with open_segment(segment, 1, 0, rows=(1, 1), caller=os.getuid()) as opened:
        descriptor = opened.descriptor
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.parametrize("name", ["", "/", "a/b", "../etc/passwd", "//x", ".", "..", "/..", "x\0y", "n" * 256])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(SharedMemoryError, match="not allowed"), open_segment(name, 1, 0, rows=(1, 1), caller=os.getuid()):
        pass


def test_missing() -> None:
    with pytest.raises(SharedMemoryError, match="does not exist"), open_segment("no-such-segment", 1, 0, rows=(1, 1), caller=os.getuid()):
        pass


def test_symlink_is_not_followed(segment: str, tmp_path: Path) -> None:
    link = SEGMENTS / f"{segment}-link"
    link.symlink_to(SEGMENTS / segment)
    try:
        with pytest.raises(SharedMemoryError, match="symbolic link"), open_segment(link.name, 1, 0, rows=(1, 1), caller=os.getuid()):
            pass
    finally:
        link.unlink()


def test_folder_and_pipe(segment: str) -> None:
    for make in (os.mkdir, os.mkfifo):
        path = SEGMENTS / f"{segment}-other"
        make(path)
        try:
            with pytest.raises(SharedMemoryError, match="not a plain segment"), open_segment(path.name, 1, 0, rows=(1, 1), caller=os.getuid()):
                pass
        finally:
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(("size", "offset"), [(11, 0), (10, 1), (1, 10), (1, 2**64 - 1), (2**64 - 1, 2**64 - 1)])
def test_past_the_end(segment: str, size: int, offset: int) -> None:
    with pytest.raises(SharedMemoryError, match="past its end"), open_segment(segment, size, offset, rows=(1, 1), caller=os.getuid()):
        pass


@pytest.mark.parametrize("size", [0, 8, 10])
def test_another_size_than_the_picture_s(segment: str, size: int) -> None:
    refused = pytest.raises(SharedMemoryError, match=r"needs 9 bytes.*not of the segment")
    with refused, open_segment(segment, size, 0, rows=(9, 1), caller=os.getuid()):
        pass


def test_padded_rows_are_told_apart_and_taken_when_asked_for() -> None:
    with pytest.raises(SharedMemoryError, match=r"144780 bytes, 190 rows of 762; this is the size of rows padded to 764 bytes.*row_padding"):
        row_stride(764 * 190, 762, 190, padded=False)
    assert row_stride(764 * 190, 762, 190, padded=True) == 764
    assert row_stride(762 * 190, 762, 190, padded=True) == 762
    for size in (764 * 190 - 1, 768 * 190, 2 * 764 * 190):
        with pytest.raises(SharedMemoryError, match="not of the segment"):
            row_stride(size, 762, 190, padded=True)


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(-3, 6), st.booleans())
def test_a_size_fits_in_one_way_or_not_at_all(width: int, height: int, more: int, padded: bool) -> None:
    size = (width * 3 + more) * height
    try:
        stride = row_stride(size, width * 3, height, padded=padded)
    except SharedMemoryError:
        assert size != width * 3 * height
    else:
        assert stride * height == size
        assert stride == width * 3 or (padded and stride % 4 == 0 and 0 < stride - width * 3 < 4)


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1025])
def test_rows_are_read_without_what_pads_them(count: int) -> None:
    name = f"linewatch-test-{secrets.token_hex(6)}"
    padded = np.random.default_rng(count).integers(0, 256, (count, 12), np.uint8)
    (SEGMENTS / name).write_bytes(b"12345" + padded.tobytes())
    try:
        buffer = bytearray(10 * count)
        with open_segment(name, 12 * count, 5, rows=(10, count), caller=os.getuid(), padded=True) as opened:
            read_rows(opened, memoryview(buffer), 10)
            assert bytes(buffer) == padded[:, :10].tobytes()
            os.truncate(SEGMENTS / name, 12 * count)
            with pytest.raises(SharedMemoryError, match="made smaller"):
                read_rows(opened, memoryview(buffer), 10)
    finally:
        (SEGMENTS / name).unlink()


@given(st.text(max_size=300))
def test_no_name_reaches_outside(name: str) -> None:
    try:
        with open_segment(name, 0, 0, rows=(0, 1), caller=os.getuid()) as opened:
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
        with pytest.raises(SharedMemoryError, match="belongs to user"), open_segment(name, 8, 0, rows=(8, 1), caller=os.getuid() + 1):
            pass
        path.chmod(0o664)
        with open_segment(name, 8, 0, rows=(8, 1), caller=os.getuid() + 1) as opened:
            assert os.pread(opened.descriptor, 8, 0) == b"12345678"
        with pytest.raises(SharedMemoryError, match="belongs to user"), open_segment(
            name, 8, 0, rows=(8, 1), caller=os.getuid() + 1, writable=True
        ):
            pass
    finally:
        path.unlink()


def test_reading_past_what_is_left_is_an_error(segment: str) -> None:
    buffer = memoryview(bytearray(6))
    with open_segment(segment, 6, 4, rows=(6, 1), caller=os.getuid()) as opened:
        read_segment(opened.descriptor, buffer, opened.offset)
        assert bytes(buffer) == b"456789"
        os.truncate(SEGMENTS / segment, 7)
        with pytest.raises(SharedMemoryError, match="ended at byte 7"):
            read_segment(opened.descriptor, buffer, opened.offset)
