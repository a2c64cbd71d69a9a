"""The compiled resize gives Pillow's bytes: from its tables in numpy, and from the kernel for both instruction sets."""

import ctypes
import mmap

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.picture import BOX_BITS, _box_windows, box_tables, strips, to_model_input
from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager.kernels.box_resize import box_resize
from linewatch.packager.targets import AVX2, AVX512, Isa

PROT_NONE = 0
side = st.integers(64, 500)
target_side = st.integers(4, 30).map(lambda n: 16 * n)


def by_tables(picture: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The tables' meaning, in plain numpy: rows are averaged first and rounded, then columns."""
    values = picture.astype(np.int64)
    for axis, size in ((1, spec.width), (0, spec.height)):
        windows = zip(*_box_windows(values.shape[axis], size).tolist(), strict=True)
        sums = [
            (values.take(range(f, f + n), axis).sum(axis) * k + (1 << (BOX_BITS - 1))) >> BOX_BITS for f, n, k in windows
        ]
        values = np.stack(sums, axis)
    return values


@settings(max_examples=60, deadline=None)
@given(side, side, target_side, target_side, st.integers(0, 2**32 - 1))
def test_tables_mean_what_pillow_does(height: int, width: int, to_height: int, to_width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    spec = InputSpec(height=to_height, width=to_width)
    assert (by_tables(picture, spec) == to_model_input(picture, spec)[0]).all()


@settings(max_examples=60, deadline=None)
@given(side, side, target_side, target_side, st.integers(1000, 300_000))
def test_strips_make_each_row_once_of_all_that_it_needs(height: int, width: int, to_height: int, to_width: int, largest: int) -> None:
    spec = InputSpec(height=to_height, width=to_width)
    first, count, _ = _box_windows(height, to_height)
    found = strips(height, width, spec, largest)
    assert [y for strip in found for y in range(strip.first, strip.first + strip.count)] == list(range(to_height))
    for strip in found:
        assert strip.rows * width * 3 <= largest or strip.count == 1
        assert strip.above >= 0
        assert strip.above + strip.rows <= height
        for y in range(strip.first, strip.first + strip.count):
            assert strip.above <= first[y]
            assert first[y] + count[y] <= strip.above + strip.rows


@pytest.mark.slow
def test_nothing_is_read_behind_the_picture() -> None:
    """The picture ends where a page ends, and the next page may not be touched."""
    side = 64
    memory = mmap.mmap(-1, side * side * 3 + mmap.PAGESIZE)
    picture = np.frombuffer(memory, np.uint8, side * side * 3)
    assert picture.nbytes % mmap.PAGESIZE == 0
    libc = ctypes.CDLL(None, use_errno=True)
    end = ctypes.c_void_p(picture.ctypes.data + picture.nbytes)
    assert libc.mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE) == 0, ctypes.get_errno()
    picture[:] = np.random.default_rng(0).integers(0, 256, picture.size, np.uint8)
    for spec in (InputSpec(height=96, width=144), InputSpec(height=64, width=64), InputSpec(height=32, width=48)):
        resize = tvm.compile(tvm.IRModule({"box_resize": box_resize(spec.height, spec.width)}), target=tvm.target.Target("llvm"))["box_resize"]
        output = tvm.runtime.empty((spec.height * spec.width * 3,), "uint8")
        resize(tvm_ffi.from_dlpack(picture), tvm.runtime.tensor(box_tables(side, side, spec)), output, 0, spec.height, 0)
        expected = to_model_input(picture.reshape(side, side, 3), spec)[0]
        assert (output.numpy().reshape(spec.height, spec.width, 3) == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda isa: isa.name)
def test_kernel(isa: Isa) -> None:
    if not cpu_flags().issuperset(isa.flags):
        pytest.skip(f"this CPU has no {isa.name}; its code is compiled in other tests")
    spec = InputSpec(height=96, width=144)
    module = tvm.IRModule({"box_resize": box_resize(spec.height, spec.width)})
    resize = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": isa.mcpu}))["box_resize"]
    rng = np.random.default_rng(0)
    for height, width in [(64, 64), (96, 144), (97, 145), (480, 640), (480, 576), (192, 1728), (64, 3000), (3000, 64), (95, 300)]:
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        output = tvm.runtime.empty((spec.height * spec.width * 3,), "uint8")
        tables = tvm.runtime.tensor(box_tables(height, width, spec))
        for largest in (picture.nbytes, 40_000):
            for strip in strips(height, width, spec, largest):
                rows = np.ascontiguousarray(picture[strip.above : strip.above + strip.rows])
                resize(tvm.runtime.tensor(rows.reshape(-1)), tables, output, strip.first, strip.count, strip.above)
            assert (output.numpy().reshape(spec.height, spec.width, 3) == to_model_input(picture, spec)[0]).all()
