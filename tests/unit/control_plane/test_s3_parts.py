"""The S3 API's pure parts: chunked bodies, listings, documents; and the directory below them."""

import base64
import hashlib
import re
import string
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.control_plane.access.sigv4 import ParsedSignature, chunk_signature, trailer_signature
from linewatch.control_plane.objects import InvalidNameError, NoSuchBucketError, NoSuchObjectError, split_address
from linewatch.control_plane.objects.directory import PRIVATE, DirectoryObjects
from linewatch.control_plane.s3_api import documents as xml
from linewatch.control_plane.s3_api.chunked import ChunkDecoder
from linewatch.control_plane.s3_api.errors import S3Error
from linewatch.control_plane.s3_api.listing import list_objects
from linewatch.control_plane.s3_api.multipart import Multipart, Part, Upload, Whole

SIGNATURE = ParsedSignature("K", "20260101", "r", "s3", ("host",), "0" * 64, "20260101T000000Z", None, None)


def sign(previous: str, data: bytes) -> str:
    return chunk_signature(b"key", SIGNATURE, previous, data)


def encode(chunks: list[bytes], signed: bool) -> bytes:
    body, previous = b"", "seed"
    for chunk in [*chunks, b""]:
        extension = b""
        if signed:
            previous = sign(previous, chunk)
            extension = b";chunk-signature=" + previous.encode()
        body += f"{len(chunk):x}".encode() + extension + b"\r\n" + chunk + (b"\r\n" if chunk else b"")
    return body + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"


def pieces(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    ends = sorted({min(c, len(body)) for c in cuts} | {len(body)})
    return (body[a:b] for a, b in zip([0, *ends], ends, strict=False))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.booleans(), st.lists(st.integers(0, 400), max_size=8))
def test_chunks_come_out_however_the_body_is_cut(chunks: list[bytes], signed: bool, cuts: list[int]) -> None:
    decoder = ChunkDecoder(sign if signed else None, "seed")
    out = b"".join(part for piece in pieces(encode(chunks, signed), cuts) for part in decoder.feed(piece))
    assert out == b"".join(chunks)
    assert decoder.finished


@given(st.integers(0, 10_000))
def test_a_flipped_bit_of_a_signed_body_is_noticed(place: int) -> None:
    body = bytearray(encode([b"hello", b"world"], signed=True))
    place %= len(body) - len(b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n")
    body[place] ^= 1
    decoder = ChunkDecoder(sign, "seed")
    try:
        out = b"".join(decoder.feed(bytes(body)))
    except S3Error:
        return
    # The bit was one of a letter's case in the size, or the body now waits for more.
    assert not decoder.finished or out == b"helloworld"


def test_signed_trailers_are_those_of_the_signer() -> None:
    body = encode([b"hello"], signed=True).partition(b"x-amz-checksum")[0]
    last = body.rpartition(b"chunk-signature=")[2][:64].decode()
    line = "x-amz-checksum-crc32:NhCmhg=="
    signature = trailer_signature(b"key", SIGNATURE, last, hashlib.sha256(f"{line}\n".encode()).hexdigest())

    def read(text: str) -> dict[str, str]:
        decoder = ChunkDecoder(sign, "seed")
        list(decoder.feed(body + text.encode()))
        return decoder.trailers(partial(trailer_signature, b"key", SIGNATURE))

    assert read(f"{line}\r\nx-amz-trailer-signature:{signature}\r\n\r\n") == {"x-amz-checksum-crc32": "NhCmhg=="}
    assert read("\r\n") == {}
    for wrong in (f"{line}\r\n\r\n", f"{line[:-1]}\r\nx-amz-trailer-signature:{signature}\r\n\r\n", "no colon\r\n\r\n", "x" * 9000):
        with pytest.raises(S3Error):
            read(wrong)


@given(st.binary(max_size=100), st.booleans())
def test_any_body_is_decoded_or_refused(body: bytes, signed: bool) -> None:
    with suppress(S3Error):
        list(ChunkDecoder(sign if signed else None, "seed").feed(body))


def test_a_signed_chunk_has_a_bound() -> None:
    with pytest.raises(S3Error, match="at most"):
        list(ChunkDecoder(sign, "seed").feed(b"7fffffff;chunk-signature=" + b"0" * 64 + b"\r\n"))
    with pytest.raises(S3Error, match="no end"):
        list(ChunkDecoder(None).feed(b"1" * 5000))


KEYS = st.lists(
    st.lists(st.text("abAB-!. ü", min_size=1, max_size=3).filter(lambda t: t not in (".", "..")), min_size=1, max_size=3).map("/".join),
    max_size=12, unique=True,
)  # fmt: skip


@given(KEYS, st.sampled_from(["", "a", "a/", "b/a"]), st.sampled_from(["", "/"]), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_pages_of_a_listing_are_those_of_a_sorted_list(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], prefix: str, delimiter: str, page: int, second: bool
) -> None:
    objects = DirectoryObjects(tmp_path_factory.mktemp("objects"))
    objects.create_bucket("bkt", "111122223333")
    stored = []
    for key in keys:
        incoming = objects.incoming()
        incoming.write_bytes(b"x")
        try:
            objects.adopt("bkt", key, incoming, "e")
        except InvalidNameError:
            continue  # a file where a folder is, or the other way round
        stored.append(key)
    expected = []
    for key in sorted(k for k in stored if k.startswith(prefix)):
        cut = key.find("/", len(prefix)) if delimiter else -1
        shown = key[: cut + 1] if cut >= 0 else key
        if shown not in expected:
            expected.append(shown)
    found: list[str] = []
    query = {"prefix": prefix, "delimiter": delimiter, "max-keys": str(page)} | ({"list-type": "2"} if second else {})
    for _ in range(50):
        text = list_objects(objects, "bkt", query).decode()
        shown = re.findall(r"<Key>([^<]*)</Key>", text) + re.findall(r"<CommonPrefixes><Prefix>([^<]*)</Prefix>", text)
        assert len(shown) <= page
        found += sorted(shown)
        more = re.search(r"<Next(?:Continuation)?(?:Token|Marker)>([^<]*)<", text)
        if not more:
            break
        query = {**query, ("continuation-token" if second else "marker"): more[1]}
    assert found == expected


@pytest.mark.parametrize("query", [{"max-keys": "x"}, {"list-type": "2", "continuation-token": "***"},
                                   {"list-type": "2", "continuation-token": base64.b64encode(b"\xff").decode()}])  # fmt: skip
def test_a_malformed_listing_is_refused(tmp_path: Path, query: dict[str, str]) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.create_bucket("bkt", "111122223333")
    with pytest.raises(S3Error):
        list_objects(objects, "bkt", query)


@pytest.mark.parametrize("key", ["../x", "a/../b", "a//b", "/a", ".", "a/.", "a\0b", "x" * 256, "y/" * 600, ""])
def test_keys_that_are_no_files_are_refused(tmp_path: Path, key: str) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    objects.create_bucket("bkt", "111122223333")
    incoming = objects.incoming()
    incoming.write_bytes(b"x")
    with pytest.raises(InvalidNameError):
        objects.adopt("bkt", key, incoming, "e")
    assert not incoming.exists()
    assert [p.parent.name for p in tmp_path.rglob("*") if p.is_file()] == ["owners"]
    with pytest.raises(NoSuchObjectError), objects.open("bkt", key):
        pass


@pytest.mark.parametrize("bucket", ["", "..", "a", ".linewatch", "a/b", "x" * 64, "-abc"])
def test_buckets_that_are_no_folders_are_refused(tmp_path: Path, bucket: str) -> None:
    objects = DirectoryObjects(tmp_path)
    with pytest.raises(InvalidNameError):
        objects.create_bucket(bucket, "111122223333")
    with pytest.raises(NoSuchBucketError):
        objects.keys(bucket)


def test_a_file_put_there_by_hand_is_an_object(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    (tmp_path / "bkt" / "a").mkdir(parents=True)
    (tmp_path / "bkt" / "a" / "b.png").write_bytes(b"hello")
    assert [(key, objects.entry("bkt", key).size) for key in objects.keys("bkt")] == [("a/b.png", 5)]  # type: ignore[union-attr]
    stored, _, _ = objects.describe("bkt", "a/b.png")
    assert (stored.content_type, stored.etag[-2:]) == ("image/png", "-1")
    assert objects.size("bkt", "a/b.png") == 5
    with objects.open("bkt", "a/b.png") as stream:
        assert stream.read() == b"hello"
    with pytest.raises(NoSuchObjectError, match="version"):
        objects.size("bkt", "a/b.png", "7")


def test_a_note_counts_only_for_the_file_it_was_made_for(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.create_bucket("bkt", "111122223333")
    source = tmp_path / "source"
    source.write_bytes(b"one")
    objects.put("bkt", "k", source, "text/plain")
    assert objects.describe("bkt", "k")[0].etag == hashlib.md5(b"one").hexdigest()  # noqa: S324
    (tmp_path / "bkt" / "k").write_bytes(b"by hand")
    assert objects.describe("bkt", "k")[0].etag.endswith("-1")


def test_fetching_gives_a_file_that_later_changes_do_not_touch(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "o")
    objects.create_bucket("bkt", "111122223333")
    source = tmp_path / "source"
    source.write_bytes(b"one")
    objects.put("bkt", "k", source, "text/plain")
    objects.fetch("bkt", "k", tmp_path / "deep" / "copy")
    source.write_bytes(b"two")
    objects.put("bkt", "k", source, "text/plain")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"one"


def test_a_deleted_object_takes_empty_folders_with_it(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "o")
    objects.create_bucket("bkt", "111122223333")
    source = tmp_path / "source"
    source.write_bytes(b"one")
    objects.put("bkt", "a/b/c", source, "text/plain")
    objects.put("bkt", "a/d", source, "text/plain")
    objects.delete("bkt", "a/b/c")
    objects.delete("bkt", "never/was")
    assert list(objects.keys("bkt")) == ["a/d"]
    assert not (tmp_path / "o" / "bkt" / "a" / "b").exists()
    assert list((tmp_path / "o" / PRIVATE / "incoming").iterdir()) == []


def test_parts_make_an_object(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.create_bucket("bkt", "111122223333")
    uploads = Multipart(objects)
    upload = Upload("bkt", "k", "image/png", {"a": "b"})
    upload_id = uploads.begin(upload)
    folder, found = uploads.find(upload_id, "bkt", "k")
    assert found == upload
    etags = []
    for number, data in enumerate((b"one", b"two"), 1):
        incoming = objects.incoming()
        incoming.write_bytes(data)
        etags.append(hashlib.md5(data).hexdigest())  # noqa: S324
        uploads.add_part(folder, number, incoming, etags[-1])
    one, two = Part(1, etags[0]), Part(2, etags[1])
    for wanted in ([], [two, one], [Part(1, etags[1])], [Part(3, etags[0])], [one, one]):
        with pytest.raises(S3Error):
            uploads.complete(folder, upload, wanted, Whole(), None)
    uploads.complete(folder, upload, [one, two], Whole(), None)
    stored, _, path = objects.describe("bkt", "k")
    assert path.read_bytes() == b"onetwo"
    assert (stored.content_type, stored.metadata, stored.etag[-2:]) == ("image/png", {"a": "b"}, "-2")
    for wrong in (upload_id, "../../etc", "0" * 32):
        with pytest.raises(S3Error, match="no such upload"):
            uploads.find(wrong, "bkt", "k")


@given(st.text(string.printable, max_size=40), st.binary(max_size=60))
def test_documents_escape_and_refuse(text: str, raw: bytes) -> None:
    printable = "".join(c for c in text if c >= " ")
    document = xml.document("Root", [("Key", printable), ("Inner", [("N", 5), ("B", True)])])
    root = xml.parse(document, "Root")
    assert xml.text_of(root, "Key") == printable
    for body in (raw, b"<Root>" + raw, b'<!DOCTYPE a [<!ENTITY b "c">]><Root>&b;</Root>', b"<Other/>"):
        with pytest.raises(S3Error):
            xml.parse(body, "Root")


@pytest.mark.parametrize("address", ["", "s3://", "s3://b", "s3://b/", "http://b/k", "b/k"])
def test_addresses(address: str) -> None:
    with pytest.raises(InvalidNameError):
        split_address(address)
    assert split_address("s3://b/k/l m") == ("b", "k/l m")
