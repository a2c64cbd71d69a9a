"""What both runtimes have to do alike: preparing a picture that lies in memory, and one that is read in pieces."""

import numpy as np
import pytest

from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.picture import to_model_input
from linewatch.anomaly_model.runtime import Runtime
from linewatch.anomaly_model.runtime_choice import open_runtime
from linewatch.packager.package import Package


@pytest.fixture(scope="module", params=["tvm", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, packaged: Package) -> Runtime:
    return open_runtime(packaged.bundle, request.param)


@pytest.mark.parametrize("size", [(64, 64), (240, 320), (720, 1280), (1001, 777), (64, 4096)], ids=str)
def test_pictures_in_memory_and_in_pieces_are_prepared_alike(runtime: Runtime, packaged: Package, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data, asked = picture.tobytes(), []

    def read(buffer: memoryview, offset: int) -> None:
        asked.append((offset, len(buffer)))
        buffer[:] = data[offset : offset + len(buffer)]

    expected = to_model_input(picture, packaged.bundle.manifest.input)
    assert (runtime.prepare(picture) == expected).all()
    assert (runtime.prepare_from(read, *size) == expected).all()
    assert asked[0][0] == 0
    assert sum(asked[-1]) == len(data)
    assert len(asked) > 1 or runtime.name == "onnxruntime" or len(data) < 300_000


def test_what_reading_raises_is_raised(runtime: Runtime) -> None:
    def read(buffer: memoryview, offset: int) -> None:
        raise PictureError("gone")

    with pytest.raises(PictureError, match="gone"):
        runtime.prepare_from(read, 100, 100)
