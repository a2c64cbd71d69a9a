import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomaly_model.errors import DatasetError
from anomaly_model.manifest import Label
from training.dataset import Sample, _parse_line, read_dataset, read_mask
from training.pictures import load_pictures
from training.workspace import Workspace

RED, GREEN = Label(name="scratch", hex_color="#D62728"), Label(name="dent", hex_color="#23A436")


def save(path: Path, size: tuple[int, int] = (64, 64), value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def silent(_what: str, _done: int, _total: int) -> None:
    pass


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
    with pytest.raises(DatasetError, match="was not found below"):
        read_dataset(manifest)


def test_manifest_cannot_leave_its_root(tmp_path: Path) -> None:
    save(tmp_path / "secret.png")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    manifest = write_manifest(tmp_path / "a" / "b" / "c" / "m.manifest", [line("../../../secret.png")])
    with pytest.raises(DatasetError, match="was not found"):
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
        sample, _ = _parse_line(entry, "line 1", [Path("/nonexistent")])
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


def test_unreadable_and_mixed_sizes_are_reported_together(tmp_path: Path) -> None:
    save(tmp_path / "normal" / "a.png")
    save(tmp_path / "normal" / "b.png", (80, 64))
    (tmp_path / "normal" / "c.png").write_bytes(b"not a picture")
    save(tmp_path / "anomaly" / "d.png")
    with pytest.raises(DatasetError) as caught:
        load_pictures(read_dataset(tmp_path), 64, Workspace(tmp_path), silent)
    assert "c.png is not a PNG or JPEG picture" in str(caught.value)
    assert "2 different sizes: 64x64 (normal/a.png), 80x64 (normal/b.png)" in str(caught.value)


def test_published_getting_started_set(cookies: Path) -> None:
    dataset = read_dataset(cookies / "dataset-files" / "manifests" / "template.manifest")
    assert (dataset.normals, dataset.anomalies, dataset.unlabelled) == (31, 32, 0)
    assert [(label.name, label.hex_color) for label in dataset.labels] == [("cracked", "#23A436")]
    shares = [read_mask(s, dataset.labels, 768, 576).mean() for s in dataset.samples if s.is_anomaly]
    assert 0.010 < min(shares) < 0.012
    assert 0.066 < max(shares) < 0.068
