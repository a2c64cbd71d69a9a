"""Reading and writing bundles on disk: a folder, or a zip of it. The rules are in `linewatch.anomaly_model.manifest`."""

import hashlib
import itertools
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from linewatch.anomaly_model.errors import (
    HashMismatchError,
    LinkError,
    MalformedBundleError,
    MissingFileError,
    OversizeError,
    UnsafePathError,
)
from linewatch.anomaly_model.files import replace_folder, write_synced, zip_files
from linewatch.anomaly_model.limits import LIMITS, Limits
from linewatch.anomaly_model.manifest import (
    MANIFEST_NAME,
    FileFacts,
    Manifest,
    check_finite,
    check_name,
    check_size,
    check_totals,
    dump_manifest,
    parse_manifest,
    verify_files,
)
from linewatch.anomaly_model.signature import SIGNATURE_NAME, sign, verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk. Make one with `open_bundle`."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Where a listed file lies.

        Raises:
            MissingFileError: the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise MissingFileError(f"the bundle in {self.folder} has no {name}; it has: {sorted(self.manifest.files)}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Content of a listed file, checked once more against its hash (the folder may have changed since).

        Raises:
            HashMismatchError: the file changed after the bundle was opened.
            MissingFileError: the bundle has no such file.
        """
        data = self.path(name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise HashMismatchError(f"{name} in {self.folder} changed after the bundle was opened; deploy it again")
        return data

    def targets(self) -> list[str]:
        """Names of the targets that the bundle holds compiled code for."""
        return sorted({name.split("/")[1] for name in self.manifest.files if name.startswith("compiled/")})


def open_bundle(path: Path, *, limits: Limits = LIMITS, trusted: "Sequence[Ed25519PublicKey]" = ()) -> Bundle:
    """Open and verify a bundle folder. For a zip, call `unzip_bundle` first.

    Args:
        path: the folder.
        limits: what is still read.
        trusted: when there are any, the bundle must be signed by one of these keys.

    Raises:
        MalformedBundleError: the folder has no bundle.json, or it is not a valid description.
        LinkError: the folder holds a symbolic link, or another thing that is not a plain file.
        SignatureError: `trusted` has keys, and none of them signed the bundle.
        BundleError: another rule is broken; the subclass says which.
    """
    manifest_path = path / MANIFEST_NAME
    try:
        status = manifest_path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise MalformedBundleError(
            f"{path} is not a bundle: it has no {MANIFEST_NAME}. Expected a folder written by 'linewatch train'"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise LinkError(f"{MANIFEST_NAME} in {path} is not a plain file")
    with manifest_path.open("rb") as stream:
        encoded = stream.read(limits.bundle_json_bytes + 1)
    found = _walk(path, limits)
    if trusted:  # before anything else of it is believed
        verify(encoded, _read_signature(path) if SIGNATURE_NAME in found else None, trusted, str(path))
    manifest = parse_manifest(encoded, limits)
    for name in (MANIFEST_NAME, SIGNATURE_NAME):
        found.pop(name, None)
    check_totals(found.keys(), found.values(), limits)
    facts: dict[str, FileFacts] = {}
    for name, size in found.items():
        listed = manifest.files.get(name)
        # A wrong length is already a mismatch: no need to read the content to say so.
        digest = _sha256_file(path / name) if listed and listed.bytes == size else "0" * 64
        facts[name] = FileFacts(bytes=size, sha256=digest)
    verify_files(manifest, facts)
    return Bundle(path, manifest)


def _read_signature(folder: Path) -> bytes:
    with (folder / SIGNATURE_NAME).open("rb") as stream:
        return stream.read(LIMITS.signature_bytes)


def _walk(folder: Path, limits: Limits) -> dict[str, int]:
    """Relative names and sizes of the plain files below `folder`; anything else is refused.

    Raises:
        LinkError: there is a symbolic link, or another thing that is not a plain file.
        UnsafePathError: a name is not allowed.
        OversizeError: a file is larger than `limits` allows, or there are more files.
    """
    sizes: dict[str, int] = {}
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as listing:
            entries = list(itertools.islice(listing, limits.bundle_files + 3))
        for entry in entries:
            name = Path(entry.path).relative_to(folder).as_posix()
            if entry.is_symlink():
                raise LinkError(f"{name} is a symbolic link; a bundle holds plain files only")
            check_name(name, limits)
            if entry.is_dir():
                pending.append(Path(entry.path))
            elif entry.is_file():
                size = entry.stat(follow_symlinks=False).st_size
                check_size(name, size, limits)
                sizes[name] = size
            else:
                raise LinkError(f"{name} is not a plain file; a bundle holds plain files only")
            if len(sizes) + len(pending) > limits.bundle_files + 2:
                raise OversizeError(f"more than {limits.bundle_files} files in {folder}")
    return sizes


def _sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def facts_of(data: bytes) -> FileFacts:
    """Length and hash of a file's content."""
    return FileFacts(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def check_replaceable(folder: Path) -> None:
    """See that a bundle may be written to a folder: there is none, or it is empty or a bundle.

    Raises:
        MalformedBundleError: something else is there.
    """
    if folder.exists() and not folder.is_dir():
        raise MalformedBundleError(f"{folder} is a file; a bundle is a folder. Choose another name")
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and any(folder.iterdir()):
        raise MalformedBundleError(f"{folder} exists and is not a bundle; choose another folder or empty it")


def write_bundle(
    folder: Path, manifest: Manifest, files: Mapping[str, bytes], key: "Ed25519PrivateKey | None" = None
) -> Bundle:
    """Write a bundle folder so that it is either whole or absent, even after a power cut.

    `manifest.files` is filled in here, and the whole is signed when there is a key. An existing folder is replaced only
    if it is a bundle itself (or empty).

    Args:
        folder: the bundle's; made, or replaced.
        manifest: without its `files`.
        files: content by name, relative to the folder.
        key: signs the bundle; None leaves it unsigned.

    Raises:
        NotFiniteError: a number of the manifest is NaN or infinite.
        BundleError: the bundle breaks a rule, or `folder` holds something that is not a bundle.
    """
    check_finite(manifest)
    manifest = msgspec.structs.replace(manifest, files={name: facts_of(data) for name, data in sorted(files.items())})
    encoded = dump_manifest(manifest)
    parse_manifest(encoded)
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        signed = {} if key is None else {SIGNATURE_NAME: sign(encoded, key)}
        for name, data in {**files, **signed, MANIFEST_NAME: encoded}.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_synced(target, data)
        temporary.chmod(0o755)
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Bundle(folder, manifest)


def zip_bundle(bundle: Bundle, path: Path) -> None:
    """Zip a bundle. The same bundle gives the same bytes: fixed dates, sorted names, fixed modes."""
    own = {MANIFEST_NAME: dump_manifest(bundle.manifest)}
    if (bundle.folder / SIGNATURE_NAME).is_file():
        own[SIGNATURE_NAME] = _read_signature(bundle.folder)
    names = sorted([*own, *bundle.manifest.files])
    zip_files(path, ((name, own[name] if name in own else bundle.read(name)) for name in names), zipfile.ZIP_DEFLATED)


def unzip_bundle(path: Path, folder: Path, *, limits: Limits = LIMITS) -> Bundle:
    """Unpack a zipped bundle into `folder` (which must not exist) and verify it.

    Names, kinds and sizes are checked before anything is written; what is unpacked is counted, so a zip that lies
    about its sizes is refused too. Nothing is left behind when the bundle is refused.

    Raises:
        MalformedBundleError: `path` is not a readable zip, or has no valid bundle.json.
        BundleError: another rule is broken; the subclass says which.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        try:
            with zipfile.ZipFile(path) as archive:
                _unzip(archive, temporary, limits)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
            raise MalformedBundleError(f"{path} is not a readable zip: {error}") from error
        verified = open_bundle(temporary, limits=limits)
        temporary.chmod(0o755)
        replace_folder(temporary, folder)
        return Bundle(folder, verified.manifest)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _unzip(archive: zipfile.ZipFile, folder: Path, limits: Limits) -> None:
    entries = archive.infolist()
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename.rstrip("/") if entry.is_dir() else entry.filename
        check_name(name, limits)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise LinkError(f"{name} in the zip is a link or another special file; a bundle holds plain files only")
        if name.lower() in seen:
            raise UnsafePathError(f"{name} occurs twice in the zip")
        seen.add(name.lower())
        check_size(name, entry.file_size, limits)
    files = [entry for entry in entries if not entry.is_dir()]
    # bundle.json and bundle.sig are not among the files that the limit counts.
    own = (MANIFEST_NAME, SIGNATURE_NAME)
    check_totals((e.filename for e in files if e.filename not in own), (e.file_size for e in files), limits)
    for entry in files:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        left = entry.file_size
        with archive.open(entry) as source, target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise OversizeError(f"{entry.filename} is larger than the zip says")
                sink.write(chunk)
