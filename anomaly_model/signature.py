"""Who made a bundle: an ed25519 signature over bundle.json, which itself holds the hash of every other file.

    bundle.sig   {"algorithm": "ed25519", "key": KEY ID, "signature": BASE64}

A key's id is the first 16 hex digits of the SHA-256 of its 32 public bytes.
"""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from linewatch.anomaly_model.errors import LinewatchError, SignatureError
from linewatch.anomaly_model.limits import LIMITS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_NAME = "bundle.sig"



class KeyFileError(LinewatchError):
    """A key file cannot be used."""


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    algorithm: Literal["ed25519"]
    key: str
    signature: str


def key_id(key: "Ed25519PublicKey") -> str:
    """A public key's short name."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(manifest: bytes, key: "Ed25519PrivateKey") -> bytes:
    """The content of bundle.sig. ed25519 has no randomness: the same bundle and key give the same bytes."""
    signature = base64.b64encode(key.sign(manifest)).decode()
    value = {"algorithm": "ed25519", "key": key_id(key.public_key()), "signature": signature}
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def verify(manifest: bytes, signature: bytes | None, trusted: "Iterable[Ed25519PublicKey]", where: str) -> str:
    """Check bundle.sig; returns the id of the key that signed.

    Args:
        manifest: bundle.json as it lies there.
        signature: bundle.sig, or None when there is none.
        trusted: keys that count.
        where: of the bundle, for messages.

    Raises:
        SignatureError: unsigned, signed by a key that is not trusted, or not what was signed.
    """
    from cryptography.exceptions import InvalidSignature

    keys = {key_id(key): key for key in trusted}
    if signature is None:
        raise SignatureError(f"the bundle in {where} is not signed, and a signature by {_named(keys)} is required; package it with --sign")
    try:
        stated = msgspec.json.decode(signature, type=_Signature)
        value = base64.b64decode(stated.signature, validate=True)
    except (msgspec.DecodeError, ValueError) as error:
        raise SignatureError(f"{SIGNATURE_NAME} in {where} cannot be read: {error}") from None
    if stated.key not in keys:
        raise SignatureError(f"the bundle in {where} is signed by the key {stated.key[:16]!r}, which is not trusted; trusted is {_named(keys)}")
    try:
        keys[stated.key].verify(value, manifest)
    except InvalidSignature:
        raise SignatureError(
            f"the signature of the bundle in {where} is wrong: bundle.json is not what the key {stated.key} signed; deploy it again"
        ) from None
    return stated.key


def _named(keys: Iterable[str]) -> str:
    return f"one of the keys {', '.join(sorted(keys))}"


def create_key() -> "Ed25519PrivateKey":
    """A new private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def private_pem(key: "Ed25519PrivateKey") -> bytes:
    """A private key as it is kept: PEM, not encrypted; the file's mode protects it."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: "Ed25519PublicKey") -> bytes:
    """A public key as it is handed out: PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key.

    Raises:
        KeyFileError: no such file, or not an ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is no private key: {error}; make one with: linewatch keys create FILE") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is a key of another kind; expected ed25519, as `linewatch keys create FILE` makes")
    return key


def read_trusted_keys(path: Path) -> "list[Ed25519PublicKey]":
    """Public keys: one file, or all files *.pub of a folder.

    Raises:
        KeyFileError: nothing there, or not ed25519 keys.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    files = sorted(path.glob("*.pub"))[: LIMITS.trusted_keys] if path.is_dir() else [path]
    keys = []
    for file in files:
        try:
            key = load_pem_public_key(_read(file))
        except ValueError as error:
            raise KeyFileError(f"{file} is no public key: {error}; expected the .pub file that `linewatch keys create` makes") from None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileError(f"{file} is a key of another kind; expected ed25519")
        keys.append(key)
    if not keys:
        raise KeyFileError(f"{path} holds no public keys (*.pub); without any, no bundle could be trusted")
    return keys


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(LIMITS.key_file_bytes)
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None
