"""Results on disk: order, bounds, kills, full disks, damage."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.edge_agent.bridge.publishing import DestinationError, expand_topic, publish_batch
from linewatch.edge_agent.results.spool import NAME, Spool, SpooledResult, SpoolWriter


class Collects:
    """A destination that can be told to refuse."""

    def __init__(self, name: str = "a", refuse_at: int | None = None) -> None:
        self.name, self.refuse_at, self.got = name, refuse_at, list[bytes]()

    def publish(self, result: SpooledResult) -> None:
        if self.refuse_at is not None and len(self.got) >= self.refuse_at:
            raise DestinationError("no network")
        self.got.append(result.body)


def bodies(first: int, last: int) -> list[tuple[str, bytes]]:
    return [("m", str(i).encode()) for i in range(first, last)]


def test_each_destination_gets_everything_in_order_and_then_it_is_gone(tmp_path: Path) -> None:
    spool, a, b = Spool(tmp_path, 100), Collects("a"), Collects("b")
    spool.append(bodies(0, 5))
    assert publish_batch(spool, a, ["a", "b"]) == 5
    spool.append(bodies(5, 8))
    assert spool.counts() == (8, 0), "b has none yet"
    assert publish_batch(spool, b, ["a", "b"]) == 8
    assert spool.counts() == (3, 0)
    assert publish_batch(spool, a, ["a", "b"]) == 3
    assert publish_batch(spool, a, ["a", "b"]) == 0
    assert spool.counts() == (0, 0)
    assert a.got == b.got == [str(i).encode() for i in range(8)]
    spool.append(bodies(8, 9))
    assert [kept.number for kept in spool.after("a", 9)] == [9], "numbers are never used again"


def test_what_was_not_taken_is_offered_again_from_there(tmp_path: Path) -> None:
    spool, broken = Spool(tmp_path, 100), Collects(refuse_at=2)
    spool.append(bodies(0, 4))
    with pytest.raises(DestinationError):
        publish_batch(spool, broken, ["a"])
    broken.refuse_at = None
    assert publish_batch(spool, broken, ["a"]) == 2
    assert broken.got == [b"0", b"1", b"2", b"3"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(5, 40))
def test_the_oldest_leave_first_and_are_counted(tmp_path_factory: pytest.TempPathFactory, batches: list[int], most: int) -> None:
    spool, sent = Spool(tmp_path_factory.mktemp("spool"), most), 0
    for count in batches:
        spool.append(bodies(sent, sent + count))
        sent += count
    kept, dropped = spool.counts()
    assert kept == min(sent, most)
    assert kept + dropped == sent
    assert [r.body for r in spool.after("a", 100)] == [str(i).encode() for i in range(dropped, sent)]
    spool.close()


WRITER = """
import sys; from pathlib import Path; from linewatch.edge_agent.results.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**6)
for i in range(10**6):
    spool.append([("m", str(i).encode())]); print(i, flush=True)
"""


def test_what_was_appended_is_there_after_a_kill(tmp_path: Path) -> None:
    for round_ in range(3):
        said = tmp_path / f"{round_}.txt"
        with said.open("wb") as stream:
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / str(round_))], stdout=stream)
        deadline = time.monotonic() + 20
        while said.read_bytes().count(b"\n") < 50 + 37 * round_ and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        last = int(said.read_bytes().split(b"\n")[-2])
        spool = Spool(tmp_path / str(round_), 10**6)
        found = [int(r.body) for r in spool.after("a", 10**6)]
        assert found == list(range(len(found)))
        assert len(found) in (last + 1, last + 2), "at most one more than was acknowledged"
        spool.close()


def test_a_full_disk_keeps_results_in_memory_and_drops_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 100)
    full = True
    append = spool.append

    def maybe(results: list[tuple[str, bytes]]) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        append(results)

    monkeypatch.setattr(spool, "append", maybe)
    writer = SpoolWriter(spool, in_memory=10, retry_s=0.02)
    for i in range(25):
        writer.put("m", str(i).encode())
        time.sleep(0.002)
    assert writer.counts() == (10, 15)
    full = False
    deadline = time.monotonic() + 10
    while len(spool.after("a", 100)) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [r.body for r in spool.after("a", 100)] == [str(i).encode() for i in range(15, 25)]
    writer.close()


def test_a_really_full_disk_is_an_error_and_the_file_stays_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**6)
    [(pages,)] = spool._connection.execute("pragma page_count")
    spool._connection.execute(f"pragma max_page_count = {pages + 4}")

    def fill() -> None:
        for i in range(10_000):
            spool.append([("m", b"x" * 1000 + str(i).encode())])

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    whole = [r.body for r in spool.after("a", 10**6)]
    assert whole == [b"x" * 1000 + str(i).encode() for i in range(len(whole))]
    spool.published("a", spool.after("a", 10**6)[-1].number)
    spool.forget(["a"])
    spool.append([("m", b"there is room again")])


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / NAME).write_bytes(damage)
    spool = Spool(tmp_path, 10)
    spool.append(bodies(0, 1))
    assert spool.counts() == (1, 0)
    [aside] = tmp_path.glob(f"{NAME}.damaged-*")
    assert aside.read_bytes() == damage


def test_topics_are_filled_in() -> None:
    assert expand_topic("linewatch/{thing}/{model}/results", "line7", "model-screws") == "linewatch/line7/model-screws/results"
