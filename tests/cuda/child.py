"""`python -P child.py FOLDER` compiles model.onnx, runs it on pictures.npy, and writes outputs.npz (PICTURE.OUTPUT) and kernels.cu."""

import ctypes
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from linewatch.packager.gpu import build
from linewatch.packager.targets import Gpu

_HERE = Path(__file__).parent
_COMPILER = ("g++", "-std=c++17", "-shared", "-fPIC")
_KERNEL = re.compile(r"__global__ void __launch_bounds__\(\d+\) (\w+)\([^)]*\);")


def load_driver(folder: Path) -> None:
    """CUDA's libraries under their names, before TVM's runtime asks for them."""
    (folder / "runtime.map").write_text("libcudart.so.13 { global: *; };\n")
    (folder / "empty.cpp").write_text("")
    for source, name, options in (
        (_HERE / "driver.cpp", "libcudart.so.13", [f"-Wl,--version-script={folder / 'runtime.map'}"]),
        (folder / "empty.cpp", "libcuda.so.1", []),
    ):
        subprocess.run([*_COMPILER, "-O2", f"-Wl,-soname,{name}", *options, str(source), "-o", str(folder / name)], check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


def compile_for_processor(folder: Path, source: str) -> bytes:
    """CUDA source to a library of the processor; returns its path, which is what our driver loads."""
    names = _KERNEL.findall(source)
    text = '#include "kernels.h"\n' + source + "".join(f"CUDA_KERNEL({name})\n" for name in names)
    (folder / "kernels.cu").write_text(text)
    library = folder / "kernels.so"
    options = ["-x", "c++", "-O1", "-w", "-fno-strict-aliasing", f"-I{_HERE}"]
    made = subprocess.run([*_COMPILER, *options, str(folder / "kernels.cu"), "-o", str(library)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[:1500]
    return str(library).encode() + b"\0"


def main(folder: Path) -> None:
    """Compile and run."""
    import tvm
    from tvm import relax

    load_driver(folder)
    (folder / "model.so").write_bytes(
        build((folder / "model.onnx").read_bytes(), platform.machine(), Gpu("sm_90", (12, 4), ""), lambda s: compile_for_processor(folder, s))
    )
    device = tvm.cuda(0)
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), device)
    outputs = {}
    for i, picture in enumerate(np.load(folder / "pictures.npy")):
        found = vm["main"](tvm.runtime.tensor(picture, device))
        for k, tensor in enumerate([found] if hasattr(found, "numpy") else found):
            outputs[f"{i}.{k}"] = tensor.numpy()
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
