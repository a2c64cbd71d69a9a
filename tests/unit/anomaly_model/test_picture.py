from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.limits import Limits
from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.picture import decode_picture, read_picture, to_model_input, wrap_rgb888


def encode(picture: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def test_png_decodes_exactly(picture: np.ndarray) -> None:
    assert (decode_picture(encode(picture)) == picture).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = BytesIO()
    Image.new(mode, (70, 64)).save(buffer, "PNG")
    assert decode_picture(buffer.getvalue()).shape == (64, 70, 3)


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (4097, 64), (64, 4097)], ids=["narrow", "low", "wide", "high"])
def test_sides_outside_the_contract(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match=f"{size[0]}x{size[1]}"):
        decode_picture(encode(np.zeros((size[1], size[0], 3), np.uint8)))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        decode_picture(data)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_files_decode_or_are_refused(position: int, value: int) -> None:
    data = bytearray(encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    data[position % len(data)] = value
    try:
        decoded = decode_picture(bytes(data))
    except PictureError:
        return
    assert decoded.shape[2] == 3


def test_truncated_and_wrong_kind(picture: np.ndarray) -> None:
    with pytest.raises(PictureError, match="cannot be read"):
        decode_picture(encode(picture)[:-2000])
    with pytest.raises(PictureError, match=r"not a PNG or JPEG picture.*b'BM"):
        decode_picture(encode(picture, "BMP"))


def test_long_files_are_not_read_whole(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(encode(picture))
    with pytest.raises(PictureError, match="at most 100"):
        read_picture(path, limits=Limits(picture_file_bytes=100))
    with pytest.raises(PictureError, match="cannot be opened"):
        read_picture(tmp_path / "missing.png")


@pytest.mark.parametrize("count", [0, 64 * 64 * 3 - 1, 64 * 64 * 3 + 1, 64 * 64 * 4])
def test_byte_count_must_match(count: int) -> None:
    with pytest.raises(PictureError, match="12288"):
        wrap_rgb888(bytes(count), 64, 64)


@pytest.mark.parametrize("size", [(63, 63), (4097, 4097), (-64, 64), (0, 0)])
def test_raw_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError):
        wrap_rgb888(b"", *size)


def test_channel_order_survives() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[..., 0] = 200
    resized = to_model_input(picture, InputSpec(height=64, width=64))
    assert resized.shape == (1, 64, 64, 3)
    assert (resized[..., 0] == 200).all()
    assert not resized[..., 1:].any()


def test_resize_is_the_area_mean() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    mean = picture.reshape(64, 2, 96, 2, 3).mean(axis=(1, 3))
    resized = to_model_input(picture, InputSpec(height=64, width=96))[0]
    # Pillow rounds between its two passes.
    assert np.abs(resized - mean).max() <= 1


def test_right_size_is_untouched(picture: np.ndarray) -> None:
    assert (to_model_input(picture, InputSpec(height=240, width=320))[0] == picture).all()


def encoded(image: Image.Image, kind: str, **extra: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **extra)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_sixteen_bits_become_their_upper_eight() -> None:
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    found = decode_picture(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(found, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_people_see_them(orientation: int, picture: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_picture(encoded(Image.fromarray(picture), "PNG", exif=exif))
    turned = {1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.transpose(1, 0, 2),
              6: picture[::-1].transpose(1, 0, 2), 7: picture[::-1, ::-1].transpose(1, 0, 2),
              8: picture.transpose(1, 0, 2)[::-1]}  # fmt: skip
    np.testing.assert_array_equal(found, turned[orientation])


def test_transparency_is_ignored_and_cmyk_is_converted(picture: np.ndarray) -> None:
    clear = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    np.testing.assert_array_equal(decode_picture(encoded(Image.fromarray(clear), "PNG")), picture)
    inks = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    cyan = decode_picture(encoded(inks, "JPEG"))[32, 32].astype(int)
    assert cyan[0] < 40
    assert min(cyan[1], cyan[2]) > 200
