import stat
import zipfile
from pathlib import Path

import pytest

from linewatch.anomaly_model.bundle import Bundle, open_bundle, unzip_bundle, write_bundle, zip_bundle
from linewatch.anomaly_model.errors import (
    BundleError,
    HashMismatchError,
    LinkError,
    MalformedBundleError,
    OversizeError,
    UnlistedFileError,
    UnsafePathError,
)
from linewatch.anomaly_model.limits import Limits
from tests.unit.anomaly_model.test_manifest import SMALL

FILES = {"model.onnx": b"model" * 100, "golden/0.png": b"picture"}


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "b", SMALL, FILES)


def test_write_open_read(written: Bundle) -> None:
    opened = open_bundle(written.folder)
    assert opened.manifest == written.manifest
    assert opened.read("golden/0.png") == b"picture"
    assert opened.targets() == []


def test_writing_again_replaces_and_leaves_nothing_behind(written: Bundle) -> None:
    write_bundle(written.folder, SMALL, {"model.onnx": b"new"})
    assert open_bundle(written.folder).read("model.onnx") == b"new"
    assert [p.name for p in written.folder.parent.iterdir()] == ["b"]


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").write_bytes(b"x")
    with pytest.raises(MalformedBundleError, match="not a bundle"):
        write_bundle(tmp_path / "photos", SMALL, FILES)
    assert (tmp_path / "photos" / "precious.jpg").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_flipped_byte(written: Bundle) -> None:
    path = written.folder / "model.onnx"
    path.write_bytes(b"n" + path.read_bytes()[1:])
    with pytest.raises(HashMismatchError, match=r"model\.onnx"):
        open_bundle(written.folder)


def test_changed_after_opening(written: Bundle) -> None:
    opened = open_bundle(written.folder)
    (written.folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(HashMismatchError):
        opened.read("model.onnx")


def test_symlinks_extra_files_and_missing_manifest(written: Bundle, tmp_path: Path) -> None:
    (written.folder / "extra").write_bytes(b"")
    with pytest.raises(UnlistedFileError):
        open_bundle(written.folder)
    (written.folder / "extra").unlink()
    (written.folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(LinkError):
        open_bundle(written.folder)
    with pytest.raises(MalformedBundleError, match="not a bundle"):
        open_bundle(tmp_path / "nowhere")


def test_manifest_that_is_a_link(written: Bundle) -> None:
    path = written.folder / "bundle.json"
    path.rename(written.folder.parent / "elsewhere.json")
    path.symlink_to(written.folder.parent / "elsewhere.json")
    with pytest.raises(LinkError):
        open_bundle(written.folder)


def test_oversize_on_disk(written: Bundle) -> None:
    with pytest.raises(OversizeError):
        open_bundle(written.folder, limits=Limits(bundle_file_bytes=100))


def test_zip_round_trip_is_deterministic(written: Bundle, tmp_path: Path) -> None:
    zip_bundle(written, tmp_path / "1.zip")
    zip_bundle(written, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert unzip_bundle(tmp_path / "1.zip", tmp_path / "out").read("golden/0.png") == b"picture"


def _zip(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def _link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "limits", "error"),
    [
        ([("../escaped", b"x")], Limits(), UnsafePathError),
        ([("/absolute", b"x")], Limits(), UnsafePathError),
        ([("a\\..\\b", b"x")], Limits(), UnsafePathError),
        ([(_link("link"), b"/etc/passwd")], Limits(), LinkError),
        ([("Model.onnx", b"x"), ("model.onnx", b"y")], Limits(), UnsafePathError),
        ([("big", b"0" * 2000)], Limits(bundle_file_bytes=1000), OversizeError),
        ([("a", b"0" * 600), ("b", b"0" * 600)], Limits(bundle_total_bytes=1000), OversizeError),
        ([(f"f{i}", b"") for i in range(20)], Limits(bundle_files=10), OversizeError),
        ([("model.onnx", b"x")], Limits(), MalformedBundleError),
    ],
    ids=["zip-slip", "absolute", "backslash", "symlink", "twice", "file", "total", "number", "no-manifest"],
)
def test_hostile_zips(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], limits: Limits, error: type[BundleError]
) -> None:
    archive = _zip(tmp_path / "x.zip", entries)
    with pytest.raises(error):
        unzip_bundle(archive, tmp_path / "in" / "out", limits=limits)
    assert list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "escaped").exists()


def test_zip_that_lies_about_its_size(written: Bundle, tmp_path: Path) -> None:
    zip_bundle(written, tmp_path / "x.zip")
    data = (tmp_path / "x.zip").read_bytes()
    real, told = (500).to_bytes(4, "little"), (5).to_bytes(4, "little")
    assert data.count(real) >= 2
    (tmp_path / "lie.zip").write_bytes(data.replace(real, told))
    with pytest.raises(BundleError):
        unzip_bundle(tmp_path / "lie.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"not a zip at all" * 10])
def test_damaged_zip(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(BundleError):
        unzip_bundle(tmp_path / "x.zip", tmp_path / "out")
