"""The cluster in the server's own process: it opens no port."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from linewatch.control_plane.jobs.cluster import Cluster
from linewatch.control_plane.jobs.worker import STOPPING
from linewatch.control_plane.settings import Settings
from tests.processes import listeners


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a cluster that has begun."""
    # To name itself dask asks the kernel which address would be used for one outside; nothing is sent.
    monkeypatch.setattr("distributed.comm.inproc.get_ip", lambda: "127.0.0.1")
    cluster = Cluster(Settings(data=str(tmp_path)))
    yield cluster._connected()
    cluster.close()
    STOPPING.clear()  # of this process


def test_nobody_can_connect_to_it(client: Any) -> None:
    """dask's servers of pages listen on every interface and ask nobody who he is: they show jobs, calls and logs."""
    before = listeners(os.getpid())
    assert client.submit(lambda: 6 * 7, pure=False).result(timeout=20) == 42
    assert listeners(os.getpid()) == before == set()
