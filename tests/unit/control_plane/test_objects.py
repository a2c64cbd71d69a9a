"""Buckets in a directory: whose they are, calls at the same time, and what a listing costs."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.policy import ROLES
from linewatch.control_plane.access.registry import Registry, account_of_found
from linewatch.control_plane.objects import BucketNotEmptyError, BucketTakenError, NoSuchBucketError, ObjectsError
from linewatch.control_plane.objects.directory import PRIVATE, DirectoryObjects
from linewatch.control_plane.objects.metadata import MetadataStore
from linewatch.control_plane.s3_api.conditions import write_precondition
from linewatch.control_plane.s3_api.errors import S3Error
from linewatch.control_plane.s3_api.listing import list_objects
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store

ONE, TWO = "111111111111", "222222222222"
OLD_NS = 1_000_000_000_000_000_000


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    found = DirectoryObjects(tmp_path / "objects", ONE)
    found.create_bucket("bkt", ONE)
    return found


def put(objects: DirectoryObjects, key: str, data: bytes = b"x") -> None:
    incoming = objects.incoming()
    incoming.write_bytes(data)
    objects.adopt("bkt", key, incoming, "e")


def test_a_bucket_belongs_to_the_account_that_made_it(objects: DirectoryObjects) -> None:
    assert (objects.owner("bkt"), objects.owner("none")) == (ONE, None)
    assert not objects.create_bucket("bkt", ONE)
    with pytest.raises(BucketTakenError):
        objects.create_bucket("bkt", TWO)
    assert objects.create_bucket("other", TWO)
    assert [[name for name, _ in objects.buckets(account)] for account in (ONE, TWO)] == [["bkt"], ["other"]]
    objects.delete_bucket("bkt")
    assert objects.create_bucket("bkt", TWO)
    assert objects.owner("bkt") == TWO


def test_a_folder_of_an_earlier_version_is_settled_once(tmp_path: Path) -> None:
    """Whenever it is interrupted: what has an owner keeps it, what has none gets one."""
    (tmp_path / "old" / "a").mkdir(parents=True)
    (tmp_path / "old" / "a" / "k").write_bytes(b"x")
    with (
        mock.patch.object(os, "replace", side_effect=KeyboardInterrupt),
        mock.patch.object(Path, "replace", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        DirectoryObjects(tmp_path, ONE).owner("old")
    assert DirectoryObjects(tmp_path, ONE).buckets(ONE)[0][0] == "old"
    later = DirectoryObjects(tmp_path, TWO)
    assert (later.owner("old"), later.buckets(TWO)) == (ONE, [])
    assert list(later.keys("old")) == ["a/k"]


def test_found_buckets_go_to_the_only_account_that_there_is(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path), account=ONE)
    store = Store(settings.database_url)
    store.migrate()
    registry = Registry(store, MasterKey.open(tmp_path))
    found = [account_of_found(store, settings)]
    for account in (TWO, TWO, ONE):
        registry.create(account, "k", ROLES["full"])
        found.append(account_of_found(store, settings))
    assert found == [ONE, TWO, TWO, ONE]
    store.close()


def test_of_many_that_must_be_the_first_one_is(objects: DirectoryObjects) -> None:
    check = write_precondition({"if-none-match": "*"})
    start = threading.Barrier(8)

    def put_first(n: int) -> int:
        incoming = objects.incoming()
        incoming.write_bytes(b"%d" % n)
        start.wait()
        try:
            objects.adopt("bkt", "k", incoming, f"e{n}", check=check)
        except S3Error as error:
            return error.status
        return n

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(put_first, range(8)))
    (winner,) = (r for r in results if r != 412)
    stored, _, path = objects.describe("bkt", "k")
    assert (path.read_bytes(), stored.etag) == (b"%d" % winner, f"e{winner}")


def test_an_object_that_comes_while_its_bucket_is_deleted_is_kept_or_refused(objects: DirectoryObjects) -> None:
    """Each step of `put` may come before or after the bucket goes; never is an object acknowledged and gone."""
    steps: list[Callable[[], None]] = []

    def between(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if steps:
                steps.pop()()
            return original(*arguments, **more)

        return call

    for name in ("mkdir", "replace", "exists", "is_dir"):
        for skip in range(4):
            objects.create_bucket("bkt", ONE)
            calls = [lambda: None] * skip

            def delete() -> None:
                with suppress(BucketNotEmptyError):
                    objects.delete_bucket("bkt")

            steps[:] = [delete, *calls]
            with mock.patch.object(Path, name, between(getattr(Path, name))):
                try:
                    put(objects, "a/b/k", b"here")
                    acknowledged = True
                except ObjectsError as error:
                    assert isinstance(error, NoSuchBucketError), error  # noqa: PT017
                    acknowledged = False
            steps.clear()
            assert objects.bucket_exists("bkt") is acknowledged
            if acknowledged:
                assert objects.describe("bkt", "a/b/k")[2].read_bytes() == b"here"
                objects.delete("bkt", "a/b/k")
                objects.delete_bucket("bkt")


def test_buckets_and_objects_that_come_and_go_at_once(objects: DirectoryObjects) -> None:
    def churn(n: int) -> int:
        kept = 0
        for i in range(40):
            key = f"a/{n % 2}/{n}-{i}"
            try:
                put(objects, key, b"x")
                kept += objects.entry("bkt", key) is not None
                objects.delete("bkt", key)
            except NoSuchBucketError:
                kept += 1
        return kept

    def remove(_: int) -> int:
        for _ in range(80):
            with suppress(BucketNotEmptyError, NoSuchBucketError):
                objects.delete_bucket("bkt")
            objects.create_bucket("bkt", ONE)
        return 40

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda n: remove(n) if n == 4 else churn(n), range(5))) == [40] * 5
    assert [p for p in (objects.root / PRIVATE / "incoming").iterdir() if p.is_file()] == []


def test_a_page_opens_the_metadata_of_its_keys_and_scans_a_folder_once(objects: DirectoryObjects) -> None:
    for i in range(60):
        put(objects, f"train/{i:03d}.png")
    put(objects, "zz")
    for folder in (objects.root / "bkt" / "train", objects.root / "bkt"):
        os.utime(folder, ns=(OLD_NS, OLD_NS))  # long ago: what was read of it then holds
    fresh = DirectoryObjects(objects.root, ONE)
    with (
        mock.patch.object(os, "scandir", wraps=os.scandir) as scans,
        mock.patch.object(MetadataStore, "_path", autospec=True, side_effect=MetadataStore._path) as opened,
    ):
        marker = ""
        for page in range(6):
            body = list_objects(fresh, "bkt", {"max-keys": "10", "marker": marker}).decode()
            marker = body.rpartition("<NextMarker>")[2].partition("<")[0]
            assert marker == f"train/{10 * page + 9:03d}.png"
        assert scans.call_count == 2
        assert opened.call_count <= 6 * 11
        opened.reset_mock()
        list_objects(fresh, "bkt", {})
        assert opened.call_count == 0  # they are known by now
        opened.reset_mock()
        body = list_objects(fresh, "bkt", {"delimiter": "/"}).decode()
        assert ("<Prefix>train/</Prefix>" in body, "<Key>zz</Key>" in body, opened.call_count) == (True, True, 0)
        assert scans.call_count == 2


def test_a_folder_that_has_changed_is_read_again(objects: DirectoryObjects) -> None:
    put(objects, "a/1")
    for moment in (OLD_NS, None, OLD_NS + 1):
        if moment is not None:
            os.utime(objects.root / "bkt" / "a", ns=(moment, moment))
        before = list(objects.keys("bkt"))
        put(objects, f"a/{len(before) + 1}")
        assert list(objects.keys("bkt")) == [*before, f"a/{len(before) + 1}"]
