"""Runs compiled code of any architecture in a program that holds TVM's runtime only: directly, or under QEMU."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.picture import Rgb, box_tables
from linewatch.packager.toolchain import RUNTIME, ToolError, built_runner, emulator

Array = npt.NDArray[np.generic]
_MAIN, _RESIZE = 0, 1
_CODES = {"i": 0, "u": 1, "f": 2}


class EmulationError(ToolError):
    """The program that runs compiled code failed."""


class Emulation:
    """A library that can be run, call by call."""

    def __init__(self, library: bytes, machine: str) -> None:
        """Build the runner for an architecture, where it is not there yet.

        Raises:
            ToolError: no emulator or compiler for the architecture.
        """
        prefix = emulator(machine)
        if prefix is None:
            raise ToolError(f"no emulator for {machine}: on Debian, apt-get install qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross")
        self._runner = built_runner(machine)
        self._prefix, self._library = prefix, library

    def run(self, pictures: list[npt.NDArray[np.uint8]]) -> list[list[npt.NDArray[np.float32]]]:
        """All outputs for each picture (1 x H x W x 3), flat, in the graph's order."""
        replies = self._call([_encoded(_MAIN, [picture]) for picture in pictures])
        return [[np.frombuffer(part, np.float32) for part in reply] for reply in replies]

    def resize(self, pictures: list[Rgb], spec: InputSpec) -> list[npt.NDArray[np.uint8]]:
        """Pictures of any size by the compiled resize, as 1 x H x W x 3."""
        empty = np.zeros(spec.height * spec.width * 3, np.uint8)
        calls = [_resize_call([p.reshape(-1), box_tables(p.shape[0], p.shape[1], spec), empty], spec.height) for p in pictures]
        shape = (1, spec.height, spec.width, 3)
        return [np.frombuffer(reply[0], np.uint8).reshape(shape) for reply in self._call(calls)]

    def _call(self, calls: list[bytes]) -> list[list[bytes]]:
        with tempfile.TemporaryDirectory(prefix="linewatch-emulate-") as folder:
            library = Path(folder) / "model.so"
            library.write_bytes(self._library)
            command = [*self._prefix, str(self._runner), str(self._runner.with_name(RUNTIME)), str(library)]
            try:
                result = subprocess.run(
                    command, input=b"".join(calls), capture_output=True,
                    timeout=1800, check=False, env={"TVM_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(self._runner.parent)},
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise EmulationError(f"{len(calls)} calls did not finish in {error.timeout:.0f} s") from error
        if result.returncode:
            said = " ".join(result.stderr.decode(errors="replace").strip().splitlines()[-2:])
            raise EmulationError(f"the compiled code could not be run: exit code {result.returncode}; {said}")
        return _decoded(result.stdout, len(calls))


def _resize_call(tensors: list[Array], rows: int) -> bytes:
    """All rows of the output, of a picture of which no rows were left out."""
    return _encoded(_RESIZE, tensors) + np.array([0, rows, 0], np.int64).tobytes()


def _encoded(kind: int, tensors: list[Array]) -> bytes:
    parts = [np.array([kind, len(tensors)], np.int64).tobytes()]
    for tensor in tensors:
        header = [_CODES[tensor.dtype.kind], tensor.dtype.itemsize * 8, tensor.ndim, *tensor.shape]
        parts += [np.array(header, np.int64).tobytes(), np.ascontiguousarray(tensor).tobytes()]
    return b"".join(parts)


def _decoded(data: bytes, calls: int) -> list[list[bytes]]:
    replies, at = [], 0

    def number() -> int:
        nonlocal at
        value = int.from_bytes(data[at : at + 8], "little")
        at += 8
        return value

    for _ in range(calls):
        parts = []
        for _ in range(number()):
            size = number()
            parts.append(data[at : at + size])
            at += size
        replies.append(parts)
    if at != len(data) or any(not reply for reply in replies):
        raise EmulationError(f"the runner answered {len(data)} bytes, which do not make {calls} replies")
    return replies
