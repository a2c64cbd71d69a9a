import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError, Remedy
from linewatch.anomaly_model.manifest import Label, PictureSize
from linewatch.anomaly_model.picture import read_picture, to_model_input
from linewatch.anomaly_model.progress import no_progress
from linewatch.training.data.dataset import Sample
from linewatch.training.data.manifest import parse_line
from linewatch.training.data.masks import read_mask
from linewatch.training.data.pictures import load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.data.survey import survey
from linewatch.training.workspace import Workspace

RED, GREEN = Label(name="scratch", hex_color="#D62728"), Label(name="dent", hex_color="#23A436")


def save(path: Path, size: tuple[int, int] = (64, 64), value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def line(name: str, kind: str = "normal", **extra: object) -> dict[str, object]:
    meta = {"class-name": kind, "human-annotated": "yes", "type": "groundtruth/image-classification"}
    return {"source-ref": name, "anomaly-label": 1, "anomaly-label-metadata": meta, **extra}


def segmented(name: str, mask: str, colors: dict[str, dict[str, str]]) -> dict[str, object]:
    meta = {"internal-color-map": colors, "human-annotated": "yes", "type": "groundtruth/semantic-segmentation",
            "creation-date": "Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)"}  # fmt: skip
    return line(name, "anomaly", **{"anomaly-mask-ref": mask, "anomaly-mask-ref-metadata": meta})


def write_manifest(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def test_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "normal" / f"n{i}.png")
    save(tmp_path / "anomaly" / "a.jpg")
    save(tmp_path / "loose.png")
    dataset = read_dataset(tmp_path)
    assert (dataset.normals, dataset.anomalies, dataset.unlabelled, dataset.labels) == (3, 1, 1, ())


def test_folder_with_named_masks(tmp_path: Path) -> None:
    save(tmp_path / "normal" / "n.png")
    save(tmp_path / "anomaly" / "a.png")
    save(tmp_path / "masks" / "a.png")
    (tmp_path / "labels.json").write_text('{"scratch": "#d62728"}')
    dataset = read_dataset(tmp_path)
    assert dataset.labels == (RED,)
    assert dataset.samples[1].colors == {"#D62728": "scratch"}


def test_folder_problems(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no pictures in normal/ or anomaly/"):
        read_dataset(tmp_path)
    save(tmp_path / "normal" / "n.png")
    save(tmp_path / "masks" / "lost.png")
    with pytest.raises(DatasetError, match="no picture of that name"):
        read_dataset(tmp_path)
    (tmp_path / "labels.json").write_text('{"a": "#000001", "b": "#000001"}')
    with pytest.raises(DatasetError, match="same colour"):
        read_dataset(tmp_path)


def test_manifest_the_class_name_decides(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name)
    lines = [line("a.png"), line("s3://bucket/b.png", "Anomaly"), line("c.png", "broken"), {"source-ref": "c.png"}]
    dataset = read_dataset(write_manifest(tmp_path / "m.manifest", lines))
    assert [s.is_anomaly for s in dataset.samples] == [False, True]
    assert dataset.unlabelled == 2


def test_manifest_with_bucket_below_root(tmp_path: Path) -> None:
    save(tmp_path / "mirror" / "bucket" / "deep" / "a.png")
    manifest = write_manifest(tmp_path / "m.manifest", [line("s3://bucket/deep/a.png")])
    assert read_dataset(manifest, tmp_path / "mirror").samples[0].path.name == "a.png"
    with pytest.raises(DatasetError, match="were not found below"):
        read_dataset(manifest)


def test_manifest_cannot_leave_its_root(tmp_path: Path) -> None:
    save(tmp_path / "secret.png")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    manifest = write_manifest(tmp_path / "a" / "b" / "c" / "m.manifest", [line("../../../secret.png")])
    with pytest.raises(DatasetError, match="were not found"):
        read_dataset(manifest)


def test_color_maps_go_by_name_not_by_index(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    only = {"0": {"class-name": "scratch", "hex-color": "#d62728"}}
    both = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"}, "1": {"class-name": " dent", "hex-color": "#23A436 "}}
    manifest = write_manifest(tmp_path / "m", [segmented("a.png", "a.png", only), segmented("b.png", "b.png", both)])
    assert set(read_dataset(manifest).labels) == {RED, GREEN}


def test_masks_of_some_pictures_only(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "n.png"):
        save(tmp_path / name)
    save(tmp_path / "dummy.png", (16, 16), 255)  # published sets have them for normal pictures
    map_ = {"1": {"class-name": "scratch", "hex-color": "#d62728"}}
    white = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"}}
    normal = segmented("n.png", "dummy.png", white) | {k: v for k, v in line("n.png").items() if k.startswith("anomaly-label")}
    manifest = write_manifest(tmp_path / "m", [segmented("a.png", "a.png", map_), line("b.png", "anomaly"), normal])
    dataset = read_dataset(manifest)
    assert dataset.labels == (RED,)
    assert [(s.is_anomaly, s.mask is not None) for s in dataset.samples] == [(True, True), (True, False), (False, False)]


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ({}, "no internal-color-map"),
        ({"0": {"class-name": "x", "hex-color": "red"}}, "#RRGGBB"),
        ({"0": {"hex-color": "#ffffff"}}, "no class-name"),
        ({"0": {"class-name": "x", "hex-color": "#000001"}, "1": {"class-name": "y", "hex-color": "#000001"}}, ""),
    ],
)
def test_bad_color_maps_name_the_line(tmp_path: Path, colors: dict[str, dict[str, str]], message: str) -> None:
    save(tmp_path / "a.png")
    manifest = write_manifest(tmp_path / "m.manifest", [line("a.png"), segmented("a.png", "a.png", colors)])
    if message:
        with pytest.raises(DatasetError, match=rf"line 2.*{message}"):
            read_dataset(manifest)
    else:  # one colour, two names: the last wins in JSON objects keyed by colour, and the mask still reads
        assert len(read_dataset(manifest).labels) == 1


def test_one_colour_a_label_across_lines(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    lines = [segmented("a.png", "a.png", {"1": {"class-name": "x", "hex-color": c}}) for c in ("#000001", "#000002")]
    with pytest.raises(DatasetError, match=r"line 2.*earlier line"):
        read_dataset(write_manifest(tmp_path / "m.manifest", lines))


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{}", '{"source-ref": 3}', "[" * 5000])
def test_bad_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.manifest"
    path.write_text(text + "\n")
    with pytest.raises(DatasetError, match="line 1"):
        read_dataset(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "class-name", "internal-color-map", "hex-color", "0", "x-ref", "x-ref-metadata"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["source-ref", "x-metadata", "m-ref", "m-ref-metadata"]), json_values))
def test_any_json_is_read_or_refused(entry: dict[str, object]) -> None:
    try:
        sample, _ = parse_line(entry, "line 1", [Path("/nonexistent")])
    except DatasetError:
        return
    assert isinstance(sample, Sample)


def mask_sample(path: Path, colors: dict[str, str]) -> Sample:
    return Sample("p", path, True, path, colors)


def test_white_transparent_and_colours(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0] = (0xD6, 0x27, 0x28, 255)
    rgba[1] = (0xD6, 0x27, 0x28, 40)  # the soft rim of a published mask
    rgba[2] = (255, 255, 255, 255)
    Image.fromarray(rgba).save(tmp_path / "m.png")
    labels = read_mask(mask_sample(tmp_path / "m.png", {"#D62728": "scratch"}), [GREEN, RED], 4, 4)
    assert (labels[0] == 2).all()
    assert not labels[1:].any()


def test_palette_mask_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 0x23, 0xA4, 0x36])
    image.putpixel((1, 2), 1)
    image.save(tmp_path / "m.png", transparency=bytes([0, 255]))
    labels = read_mask(mask_sample(tmp_path / "m.png", {"#23A436": "dent"}), [GREEN], 4, 4)
    assert labels[2, 1] == 1
    assert labels.sum() == 1


def test_black_and_white_mask_without_labels(tmp_path: Path) -> None:
    data = np.zeros((4, 4), np.uint8)
    data[3] = 255
    Image.fromarray(data).save(tmp_path / "m.png")
    assert read_mask(mask_sample(tmp_path / "m.png", {}), [GREEN], 4, 4).sum() == 4


def test_mask_problems(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (0xD6, 0x27, 0x28)).save(tmp_path / "other.png")
    with pytest.raises(DatasetError, match="model's labels are"):
        read_mask(mask_sample(tmp_path / "other.png", {"#D62728": "scratch"}), [GREEN], 4, 4)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "strange.png")
    with pytest.raises(DatasetError, match="#010203"):
        read_mask(mask_sample(tmp_path / "strange.png", {"#D62728": "scratch"}), [RED], 4, 4)
    with pytest.raises(DatasetError, match=r"4x4.*8x8"):
        read_mask(mask_sample(tmp_path / "strange.png", {"#010203": "scratch"}), [RED], 8, 8)
    Image.new("RGB", (4, 4)).save(tmp_path / "renamed.jpg")
    (tmp_path / "renamed.jpg").rename(tmp_path / "renamed.png")
    with pytest.raises(DatasetError, match="not a readable PNG"):
        read_mask(mask_sample(tmp_path / "renamed.png", {}), [RED], 4, 4)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six good pictures, one of them with a mask that is none; five that cannot be read, two of another size, a wrong mask."""
    folder = tmp_path / "data"
    for i in range(5):
        save(folder / "normal" / f"a{i}.png", value=20 * i)
    for i in range(2):
        save(folder / "normal" / f"b{i}.png", (80, 64))
    for i in range(3):
        (folder / "normal" / f"c{i}.png").write_bytes(b"not a picture")
    save(folder / "normal" / "small.png", (8, 8))
    save(folder / "normal" / "cut.png").write_bytes((folder / "normal" / "a0.png").read_bytes()[:60])
    save(folder / "anomaly" / "d.png")
    save(folder / "anomaly" / "e.png")
    save(folder / "masks" / "d.png", (8, 8))
    (folder / "masks" / "e.png").write_bytes(b"no mask")
    return folder


def test_unreadable_and_mixed_sizes_are_reported_together(mixed: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        survey(read_dataset(mixed))
    said = str(caught.value)
    assert "6 of 14 pictures or their masks cannot be read: normal/c0.png is not a PNG or JPEG picture" in said
    assert said.count("c2.png is not a PNG") == 1
    assert "and 3 more" in said
    assert "1 of 2 masks are wrong: the mask of anomaly/d.png is 8x8 pixels, its picture 64x64" in said
    assert "2 of 14 pictures are not of the size of 7 others, 64x64; all must be of one size. 80x64: normal/b0.png, normal/b1.png" in said
    assert caught.value.remedies == (Remedy.LEAVE_OUT, Remedy.RESIZE)
    assert str(mixed) not in said.removeprefix(str(mixed))


def test_what_cannot_be_read_is_left_out_and_sizes_are_kept_where_asked_for(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be used:\n  1 of 2 masks are wrong: .*equal$") as caught:
        survey(read_dataset(mixed), leave_out=True, resize=True)
    assert caught.value.remedies == ()
    save(mixed / "masks" / "d.png", value=0)
    found = survey(read_dataset(mixed), leave_out=True, resize=True)
    assert found.skipped == (
        "normal/c0.png", "normal/c1.png", "normal/c2.png", "normal/cut.png", "normal/small.png", "anomaly/e.png")  # fmt: skip
    assert [s.name for s in found.samples if s.size == PictureSize(height=64, width=80)] == ["normal/b0.png", "normal/b1.png"]
    (tmp_path / "work").mkdir()
    store = load_pictures(found, 64, Workspace(tmp_path / "work"), no_progress)
    assert store.picture == PictureSize(height=64, width=64)
    for i, sample in enumerate(found.samples):
        np.testing.assert_array_equal(store.input(i), to_model_input(read_picture(sample.path), store.spec))
    with pytest.raises(DatasetError, match="6 of 8 pictures are not of the size of the training pictures, 80x64"):
        survey(found, expected=PictureSize(height=64, width=80))


def test_lines_without_their_pictures_are_named_together(tmp_path: Path) -> None:
    save(tmp_path / "here.png")
    names = ["here.png", *(f"s3://b/gone{i}.png" for i in range(4)), "nul\0.png", "s3://b/../../up.png", "long" * 100 + ".png"]
    manifest = write_manifest(tmp_path / "m.manifest", [line(name) for name in names])
    with pytest.raises(DatasetError) as caught:
        read_dataset(manifest)
    said = str(caught.value)
    assert f"7 of 8 lines of {manifest} were not found below {tmp_path}" in said
    assert "s3://b/gone0.png (line 2), s3://b/gone1.png (line 3), s3://b/gone2.png (line 4), and 4 more" in said
    assert caught.value.remedies == (Remedy.NAME_ROOT, Remedy.LEAVE_OUT)
    left = read_dataset(manifest, leave_out=True)
    assert [s.display_name for s in left.samples] == ["here.png (line 1)"]
    assert len(left.skipped) == 7
    with pytest.raises(DatasetError, match=r"the training set were not found: s3://b/gone0.png, s3") as caught:
        read_dataset(manifest, tmp_path, display_name="the training set")
    assert str(tmp_path) not in str(caught.value)


def test_published_getting_started_set(cookies: Path) -> None:
    dataset = read_dataset(cookies / "dataset-files" / "manifests" / "template.manifest")
    assert (dataset.normals, dataset.anomalies, dataset.unlabelled) == (31, 32, 0)
    assert [(label.name, label.hex_color) for label in dataset.labels] == [("cracked", "#23A436")]
    shares = [read_mask(s, dataset.labels, 768, 576).mean() for s in dataset.samples if s.is_anomaly]
    assert 0.010 < min(shares) < 0.012
    assert 0.066 < max(shares) < 0.068
