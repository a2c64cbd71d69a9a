"""A server on each kind of database, and what the cases need: clients, rows, a bucket with pictures."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from linewatch.anomaly_model.bundle import Bundle
from linewatch.control_plane.access.policy import Policy
from linewatch.control_plane.store.schema import models, projects
from tests.postgres import find_programs, running_postgres
from tests.server import ACCOUNT, REGION, Server, wait_for


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL, with a place for a database's name."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is missing; .ci/run must install it")
        pytest.skip("PostgreSQL is not installed")
    with running_postgres(programs) as address:
        yield address


def new_database(address: str) -> str:
    """Make a database; gives its address."""
    name = f"test_{secrets.token_hex(4)}"
    engine = sa.create_engine(address.format(name="postgres").replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return address.format(name=name)


@contextmanager
def running_server(folder: Path, **settings: object) -> Iterator[Server]:
    """A server that starts, stops and logs no trace."""
    running = Server(
        folder / "data",
        {"quota_trainings": 50, "hosting_start_s": 60, "training_effort": "quick", "training_encoder": "none", **settings},
    ).start()
    try:
        yield running
        running.stop()
        assert "Traceback" not in running.log
    finally:
        running.kill()


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose rows lie in a file."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Server]:
    """A server whose rows lie in PostgreSQL."""
    with running_server(tmp_path_factory.mktemp("server"), database=new_database(postgres)) as running:
        yield running


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Server:
    """A running server; both kinds run until the end, whichever test comes next."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@dataclass
class Bench:
    """What a case works with.

    Attributes:
        server: the process.
        api: a client that may do everything.
        s3: likewise, of S3.
        project: a name that nobody else uses.
        bundle: a trained model.
        parts: the pictures that it was trained and tested on.
    """

    server: Server
    api: Any
    s3: Any
    project: str
    bundle: Bundle
    parts: Path | None = None

    def make(self, *kinds: str, lines: int = 0) -> str:
        """Create the project, and its datasets with some lines."""
        self.api.create_project(ProjectName=self.project)
        for kind in kinds:
            self.api.create_dataset(ProjectName=self.project, DatasetType=kind)
            if lines:
                self.update(kind, lines)
        return self.project

    def update(self, kind: str, count: int, start: int = 0) -> None:
        """Add lines to a dataset and wait."""
        self.api.update_dataset_entries(ProjectName=self.project, DatasetType=kind, Changes=manifest(count, start=start))
        self.settled(kind)

    def settled(self, kind: str = "train") -> dict[str, Any]:
        """Wait for a dataset."""
        def describe() -> Any:
            return self.api.describe_dataset(ProjectName=self.project, DatasetType=kind)["DatasetDescription"]

        return wait_for(describe, lambda d: not d["Status"].endswith("_IN_PROGRESS"))

    def model(self, status: str = "TRAINED", version: int = 1) -> str:
        """Put a model into the store, as a training would; gives its version."""
        store = self.server.store()
        with store.write() as c:
            row = c.execute(sa.select(projects).where(projects.c.name == self.project, projects.c.region == REGION)).one()
            model_id = c.execute(sa.insert(models).values(
                project_id=row.id, version=version, status=status, created=1.0, output_bucket="out", output_prefix="",
                performance={"F1Score": 1.0, "Recall": 1.0, "Precision": 1.0},
            ).returning(models.c.id)).scalar_one()  # fmt: skip
            c.execute(sa.update(projects).where(projects.c.id == row.id).values(next_version=version + 1))
        store.close()
        shutil.copytree(self.bundle.folder, self.server.data / "models" / str(model_id) / "bundle")
        return str(version)

    def arn(self, version: str = "1") -> str:
        """ARN of a model of the project."""
        return f"arn:aws:lookoutvision:{REGION}:{ACCOUNT}:model/{self.project}/{version}"

    def status(self, version: str = "1") -> str:
        """Of a model."""
        return str(self.api.describe_model(ProjectName=self.project, ModelVersion=version)["ModelDescription"]["Status"])

    def hosted(self, version: str = "1", **units: int) -> str:
        """Host a model and wait."""
        answer = self.api.start_model(ProjectName=self.project, ModelVersion=version, **{"MinInferenceUnits": 1, **units})
        assert answer["Status"] == "STARTING_HOSTING"
        found = wait_for(lambda: self.status(version), lambda s: s != "STARTING_HOSTING")
        assert found == "HOSTED", self.api.describe_model(ProjectName=self.project, ModelVersion=version)
        return version

    def stopped(self, version: str = "1") -> None:
        """Stop a model and wait."""
        assert self.api.stop_model(ProjectName=self.project, ModelVersion=version)["Status"] == "STOPPING_HOSTING"
        assert wait_for(lambda: self.status(version), lambda s: s != "STOPPING_HOSTING") == "TRAINED"

    def allowed(self, *actions: str, **condition: Any) -> Any:
        """A client that may do only some things."""
        return self.server.client(self.server.credential(policy(*actions, **condition)))


def policy(*actions: str, **extra: Any) -> Policy:
    """A policy that allows some actions."""
    import msgspec

    statements = [{"Effect": "Allow", "Action": list(actions), **extra}] if actions else []
    return msgspec.convert({"Statement": statements}, Policy)


def manifest(count: int, bucket: str = "pictures", start: int = 0) -> bytes:
    """Lines with every third picture anomalous and every seventh unlabelled."""
    return "\n".join(json.dumps(entry(i, bucket)) for i in range(start, start + count)).encode()


def entry(i: int, bucket: str = "pictures") -> dict[str, Any]:
    """A line."""
    line: dict[str, Any] = {"source-ref": f"s3://{bucket}/part-{i:05d}.png"}
    if i % 7:
        line |= {"anomaly-label": 5, "anomaly-label-metadata": {
            "class-name": "normal" if i % 3 else "anomaly", "type": "groundtruth/image-classification", "human-annotated": "yes",
            "creation-date": f"2026-01-{1 + i % 28:02d}T00:00:00",
        }}  # fmt: skip
    return line


@pytest.fixture(scope="session")
def everything(server: Server) -> dict[str, str]:
    """A credential that may do everything."""
    return server.credential()


@pytest.fixture
def bench(server: Server, everything: dict[str, str], bundle: Bundle, parts: Path) -> Bench:
    """See `Bench`."""
    name = f"p-{secrets.token_hex(6)}"
    return Bench(server, server.client(everything), server.client(everything, "s3"), name, bundle, parts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for files."""
    return tmp_path
