import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.manifest import PictureSize
from linewatch.anomaly_model.picture import read_picture, to_model_input
from linewatch.anomaly_model.progress import no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.data.input_size import choose_input, choose_side
from linewatch.training.data.masks import defect_width
from linewatch.training.data.pictures import PictureStore, _shrink_mask, load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.data.survey import survey
from linewatch.training.families.cells import collect_cells
from linewatch.training.families.extractor import BANK
from linewatch.training.workspace import Workspace

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def mask(path: Path, area: tuple[slice, slice], size: tuple[int, int] = (96, 64)) -> None:
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[area] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        picture(tmp_path / "data" / "normal" / f"n{i}.png")
        picture(tmp_path / "data" / "anomaly" / f"a{i}.png")
    mask(tmp_path / "data" / "masks" / "a0.png", np.s_[10:20, 30:50])
    return tmp_path / "data"


def load(folder: Path, side: int = 64) -> PictureStore:
    (folder.parent / "work").mkdir(exist_ok=True)
    return load_pictures(read_dataset(folder), side, Workspace(folder.parent / "work"), no_progress)


def test_what_is_read_back_is_what_the_graph_gets(folder: Path) -> None:
    store = load(folder)
    dataset = read_dataset(folder)
    for i, sample in enumerate(dataset.samples):
        np.testing.assert_array_equal(store.input(i), to_model_input(read_picture(sample.path), store.spec))
    assert store.has_pixel_labels().tolist() == [True, True, True, True, False, False]
    assert store.label_of.tolist() == [0, 0, 0, 1, 0, 0]
    assert store.label_map(3).sum() == 200
    assert store.coverage(3, 4).sum() * 16 == pytest.approx(200)
    part = store.subset(np.array([3, 0]))
    np.testing.assert_array_equal(part.input(0), store.input(3))
    assert part.names == [store.names[3], store.names[0]]
    assert part.label_map(0).sum() == 200


def test_a_second_load_reads_nothing_again(folder: Path) -> None:
    first = load(folder)
    for path in (folder / "normal").iterdir():
        path.write_bytes(b"gone")
    again = load(folder)
    np.testing.assert_array_equal(first.input(1), again.input(1))


@pytest.mark.parametrize(("width", "area"), [(3.0, np.s_[30:33, 5:90]), (12.0, np.s_[10:22, 5:90])])
def test_width_of_a_strip(width: float, area: tuple[slice, slice]) -> None:
    strip = np.zeros((64, 96), np.uint8)
    strip[area] = 1
    assert defect_width(strip) == pytest.approx(width, rel=0.4)


def test_width_of_a_disc_is_near_its_radius_and_nothing_has_none() -> None:
    y, x = np.mgrid[:100, :100]
    assert defect_width(((y - 50) ** 2 + (x - 50) ** 2 < 30**2).astype(np.uint8)) == pytest.approx(30, rel=0.1)
    assert defect_width(np.zeros((9, 9), np.uint8)) is None


def test_thin_defects_in_large_pictures_get_a_larger_input(tmp_path: Path) -> None:
    size = (800, 600)
    picture(tmp_path / "normal" / "n.png", size)
    picture(tmp_path / "anomaly" / "a.png", size)
    mask(tmp_path / "masks" / "a.png", np.s_[200:203, 100:700], size)
    side, thin = choose_side(survey(read_dataset(tmp_path)))
    assert thin == pytest.approx(3, rel=0.4)
    assert 256 < side <= 512
    mask(tmp_path / "masks" / "a.png", np.s_[200:300, 100:300], size)
    assert choose_side(survey(read_dataset(tmp_path)))[0] == 256


def test_input_keeps_the_shape_and_is_never_larger_than_the_picture() -> None:
    spec = choose_input(PictureSize(height=960, width=1280), 256)
    assert (spec.height, spec.width) == (256, 336)
    small = choose_input(PictureSize(height=100, width=120), 256)
    assert (small.height, small.width) == (96, 128)


def test_lines_thinner_than_a_pixel_of_the_input_do_not_fall_apart() -> None:
    line = np.zeros((256, 256), np.uint8)
    line[101:103] = 1
    spec = choose_input(PictureSize(height=256, width=256), 64)
    shrunk = _shrink_mask(line, 1, spec)
    assert shrunk.any(axis=0).all()


def test_all_pictures_equal(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "data" / ("normal" if i % 2 else "anomaly") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (9, 9, 9)).save(path)
    with pytest.raises(DatasetError, match=r"all 4 pictures of .* look the same"):
        load(tmp_path / "data")


def test_no_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linewatch.training.data.pictures.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DatasetError, match=r"0.0 GB free where training works; the decoded pictures need"):
        load(folder)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxRuntime.run_arrays
    # Copies, as memory that ONNX Runtime took itself is not traced.
    monkeypatch.setattr(OnnxRuntime, "run_arrays", lambda self, x: [np.array(v) for v in real(self, x)])

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        for i in range(count):
            picture(folder / "data" / ("normal" if i % 2 else "anomaly") / f"{i}.png", (256, 192))
        dataset = read_dataset(folder / "data")
        (folder / "work").mkdir()
        tracemalloc.start()
        store = load_pictures(dataset, 192, Workspace(folder / "work"), no_progress)
        for i in range(count):
            store.input(i)
        collect_cells(store, BANK, 0, no_progress)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(20), peak(60)
    # 40 more pictures with their feature maps are 47 MB. Thumbnails, statistics and sampled cells, with normal
    # pictures' maps among them (bounded over all pictures), are 13.5.
    assert many - few < 16_000_000
