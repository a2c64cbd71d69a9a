"""Compiled label maps against numpy's."""

import numpy as np
import pytest
import tvm

from linewatch.anomaly_model.detection import strongest_label
from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager.compile import cpu_target, link
from linewatch.packager.kernels.label_map import label_map
from linewatch.packager.targets import AVX2, AVX512, NEON, Isa


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda isa: isa.name)
@pytest.mark.parametrize("shape", [(2, 16, 16), (5, 30, 47), (9, 64, 320), (1, 8, 33), (3, 4, 7)])
def test_kernel(isa: Isa, shape: tuple[int, int, int]) -> None:
    if not cpu_flags().issuperset(isa.flags):
        pytest.skip(f"this CPU has no {isa.name}; its code is compiled in other tests")
    module = tvm.IRModule({"label_map": label_map(isa, *shape)})
    compiled = tvm.compile(module, target=cpu_target("x86_64", isa))["label_map"]
    rng = np.random.default_rng(shape[1])
    for logits in (rng.normal(size=shape), rng.integers(0, 3, shape), np.zeros(shape), np.full(shape, -1e30)):
        values = logits.astype(np.float32)
        found = tvm.runtime.empty(shape[1:], "uint8")
        compiled(tvm.runtime.tensor(values[np.newaxis]), found)
        assert (found.numpy() == strongest_label(values)).all(), "ties go to the first label in both"


def test_it_is_compiled_for_arm_too() -> None:
    module = tvm.IRModule({"label_map": label_map(NEON, 5, 24, 33)})
    assert link(tvm.compile(module, target=cpu_target("aarch64", NEON)), "aarch64")[:4] == b"\x7fELF"
