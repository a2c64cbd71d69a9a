"""Signed bundles: only what a trusted key signed is opened."""

import shutil
from pathlib import Path

import msgspec
import pytest

from linewatch.anomaly_model.bundle import Bundle, open_bundle, unzip_bundle, write_bundle, zip_bundle
from linewatch.anomaly_model.errors import SignatureError
from linewatch.anomaly_model.signature import (
    SIGNATURE_NAME,
    KeyFileError,
    create_key,
    key_id,
    private_pem,
    public_pem,
    read_private_key,
    read_trusted_keys,
    sign,
)  # fmt: skip
from tests.unit.anomaly_model.test_bundle import FILES
from tests.unit.anomaly_model.test_manifest import SMALL as MANIFEST

KEY, OTHER = create_key(), create_key()
TRUSTED = [KEY.public_key()]


@pytest.fixture
def signed(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", MANIFEST, FILES, KEY)


def test_a_signed_bundle_is_opened(signed: Bundle) -> None:
    assert open_bundle(signed.folder, trusted=[OTHER.public_key(), *TRUSTED]).manifest == signed.manifest
    assert open_bundle(signed.folder).manifest == signed.manifest


def test_a_zip_carries_the_signature(signed: Bundle, tmp_path: Path) -> None:
    zip_bundle(signed, tmp_path / "a.zip")
    unpacked = unzip_bundle(tmp_path / "a.zip", tmp_path / "out")
    assert open_bundle(unpacked.folder, trusted=TRUSTED).manifest == signed.manifest


def test_the_same_bundle_and_key_give_the_same_bytes(signed: Bundle) -> None:
    manifest = (signed.folder / "bundle.json").read_bytes()
    assert sign(manifest, KEY) == sign(manifest, KEY) == (signed.folder / SIGNATURE_NAME).read_bytes()


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: (f / SIGNATURE_NAME).unlink(), "is not signed, and a signature by one of the keys"),
    (lambda f: (f / SIGNATURE_NAME).write_bytes(sign((f / "bundle.json").read_bytes(), OTHER)), "which is not trusted"),
    (lambda f: (f / SIGNATURE_NAME).write_bytes(sign(b"another", KEY)), "is not what the key .* signed"),
    (lambda f: (f / SIGNATURE_NAME).write_bytes(b"{}"), "cannot be read"),
    (lambda f: (f / SIGNATURE_NAME).write_bytes(b"\0" * 5000), "cannot be read"),
    (lambda f: (f / "bundle.json").write_bytes((f / "bundle.json").read_bytes().replace(b"scratch", b"SCRATCH")), "is not what the key"),
])  # fmt: skip
def test_anything_else_is_refused(signed: Bundle, change: object, message: str) -> None:
    text = (signed.folder / "bundle.json").read_text()
    (signed.folder / "bundle.json").write_text(text)
    change(signed.folder)  # type: ignore[operator]
    with pytest.raises(SignatureError, match=message):
        open_bundle(signed.folder, trusted=TRUSTED)


def test_a_file_put_in_anothers_place_is_refused(signed: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", msgspec.structs.replace(MANIFEST, tools={"x": "2"}), FILES, OTHER)
    shutil.copy(other.folder / "bundle.json", signed.folder / "bundle.json")
    with pytest.raises(SignatureError, match="is not what the key"):
        open_bundle(signed.folder, trusted=TRUSTED)


def test_key_files(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_bytes(private_pem(KEY))
    (tmp_path / "site.key.pub").write_bytes(public_pem(KEY.public_key()))
    (tmp_path / "b.pub").write_bytes(public_pem(OTHER.public_key()))
    assert key_id(read_private_key(tmp_path / "site.key").public_key()) == key_id(KEY.public_key())
    assert [key_id(k) for k in read_trusted_keys(tmp_path)] == [key_id(OTHER.public_key()), key_id(KEY.public_key())]
    assert len(read_trusted_keys(tmp_path / "b.pub")) == 1
    for path, message in ((tmp_path / "none", "cannot be read"), (tmp_path / "site.key", "is no public key")):
        with pytest.raises(KeyFileError, match=message):
            read_trusted_keys(path)
    with pytest.raises(KeyFileError, match="is no private key"):
        read_private_key(tmp_path / "b.pub")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyFileError, match="holds no public keys"):
        read_trusted_keys(tmp_path / "empty")
