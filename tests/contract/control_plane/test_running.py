"""Running the server: commands, TLS, the anonymous mode, backup and restore, schemas, capacity."""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy as sa
from botocore.config import Config
from botocore.exceptions import ClientError

from linewatch.anomaly_model.bundle import Bundle
from linewatch.control_plane.backup import BackupError, back_up, restore
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store, StoreError
from linewatch.control_plane.store.schema import metadata
from tests.conftest import need_tool
from tests.contract.control_plane.cases import detect, png, refused
from tests.contract.control_plane.conftest import Bench, manifest, new_database
from tests.server import REGION, ROOT, Server, wait_for


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings; they are ended afterwards."""
    started: list[Server] = []

    def begin(name: str = "data", **settings: object) -> Server:
        started.append(Server(tmp_path / name, settings).start())
        return started[-1]

    yield begin
    for server in started:
        server.kill()


def bench_of(server: Server, bundle: Bundle) -> Bench:
    key = server.credential()
    return Bench(server, server.client(key), server.client(key, "s3"), "parts", bundle)


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-P", "-m", "linewatch", *map(str, arguments)], capture_output=True, text=True, check=False,
                          cwd=ROOT)  # fmt: skip


def test_credentials_by_the_command(start: Callable[..., Server]) -> None:
    server = start()
    made = json.loads(command("credentials", "create", "--data", server.data, "--name", "line-7", "--role", "line", "--json").stdout)
    key = {f"aws_{k}": v for k, v in made.items()}
    client = server.client(key)
    client.list_projects()
    refused(lambda: client.create_project(ProjectName="p"), "AccessDeniedException", 403)
    listed = json.loads(command("credentials", "list", "--data", server.data, "--json").stdout)
    assert [(x["access_key"], x["name"]) for x in listed] == [(made["access_key_id"], "line-7")]
    assert made["secret_access_key"] not in json.dumps(listed)
    assert command("credentials", "delete", made["access_key_id"], "--data", server.data).returncode == 0
    refused(client.list_projects, "UnrecognizedClientException", 403)
    again = command("credentials", "delete", made["access_key_id"], "--data", server.data)
    assert (again.returncode, "there is no access key" in again.stderr) == (1, True)


def test_a_policy_file(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    file = tmp_path / "policy.json"
    file.write_text('{"Statement": [{"Effect": "Allow", "Action": "lookoutvision:ListProjects"}]}')
    text = command("credentials", "create", "--data", server.data, "--policy", file, "--hours", "1").stdout
    key = dict(line.removeprefix("export ").split("=", 1) for line in text.splitlines())
    client = server.client({k.lower(): v for k, v in key.items()})
    client.list_projects()
    file.write_text('{"Statement": "all"}')
    done = command("credentials", "create", "--data", server.data, "--policy", file)
    assert (done.returncode, "Statement" in done.stderr) == (1, True)


def test_tls(start: Callable[..., Server], tmp_path: Path) -> None:
    openssl = need_tool("openssl")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    server = start(tls_certificate=certificate, tls_key=key)
    assert server.url.startswith("https://")
    options: dict[str, Any] = {"endpoint_url": server.url, "region_name": REGION, "verify": str(certificate), **server.credential(),
                               "config": Config(retries={"max_attempts": 0})}  # fmt: skip
    s3 = boto3.client("s3", **options)
    s3.create_bucket(Bucket="bkt", CreateBucketConfiguration={"LocationConstraint": REGION})
    # Over TLS boto3 sends bodies in chunks with a checksum behind them.
    s3.put_object(Bucket="bkt", Key="k", Body=b"hello" * 50_000, ChecksumAlgorithm="CRC32")
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"hello" * 50_000
    with pytest.raises(OSError, match=r"reset|closed|EOF|refused|disconnected|Remote|record|Errno"):
        urllib.request.urlopen(server.url.replace("https:", "http:") + "/-/health", timeout=5)
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"{server.url}/-/health", context=context, timeout=5) as answer:
        assert answer.status == 200
    s3.close()  # asyncio gives a peer that keeps its TLS connection 30 s to say goodbye
    server.stop()


def test_the_anonymous_mode(start: Callable[..., Server]) -> None:
    server = start(anonymous="true")
    with urllib.request.urlopen(f"{server.url}/2020-11-20/projects", timeout=5) as answer:
        assert json.loads(answer.read()) == {"Projects": []}
    any_key = {"aws_access_key_id": "whoever", "aws_secret_access_key": "whatever"}
    client = server.client(any_key, region="eu-west-1")
    made = client.create_project(ProjectName="p")["ProjectMetadata"]["ProjectArn"]
    assert ":eu-west-1:" in made
    server.client(any_key, "s3", region="us-east-1").create_bucket(Bucket="bkt")


def test_the_anonymous_mode_is_for_this_machine_only(tmp_path: Path) -> None:
    done = command("serve", "--anonymous", "--host", "0.0.0.0", "--data", tmp_path / "d")  # noqa: S104
    assert (done.returncode, "anybody on the network" in done.stderr) == (1, True)


def test_a_port_that_is_taken(start: Callable[..., Server], tmp_path: Path) -> None:
    port = start().url.rpartition(":")[2]
    done = command("serve", "--port", port, "--data", tmp_path / "other")
    assert (done.returncode, "cannot be bound" in done.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_backup_and_restore(start: Callable[..., Server], tmp_path: Path, bundle: Bundle, request: pytest.FixtureRequest, kind: str) -> None:
    def database() -> str:
        return "" if kind == "sqlite" else new_database(request.getfixturevalue("postgres"))

    first = start(database=database())
    bench = bench_of(first, bundle)
    bench.make("train", lines=25)
    bench.model()
    bench.api.tag_resource(ResourceArn=bench.arn(), Tags=[{"Key": "a", "Value": "b"}])
    key = first.credential()
    file = tmp_path / "backup.tar"
    settings = Settings(data=str(first.data), database=str(first.settings["database"]))
    back_up(settings, file)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BackupError, match="exists"):
        back_up(settings, file)
    bench.api.create_project(ProjectName="later")
    first.stop()
    target = Settings(data=str(tmp_path / "second"), database=database())
    restore(target, file)
    with pytest.raises(BackupError, match="not empty"):
        restore(target, file)
    second = start("second", database=target.database)
    client = second.client(key)  # the master key came with it
    assert [p["ProjectName"] for p in client.list_projects()["Projects"]] == ["parts"]
    assert client.describe_dataset(ProjectName="parts", DatasetType="train")["DatasetDescription"]["ImageStats"]["Total"] == 25
    assert client.list_tags_for_resource(ResourceArn=bench.arn())["Tags"] == [{"Key": "a", "Value": "b"}]
    again = bench_of(second, bundle)
    again.hosted()
    again.stopped()
    again.api.create_project(ProjectName="numbers-go-on")
    again.update("train", 5, start=500)


def test_backups_that_are_none(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "d"))
    with pytest.raises(BackupError, match="nothing to back up"):
        back_up(settings, tmp_path / "b.tar")
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"not a tar" * 100)
    with pytest.raises(BackupError, match="not a backup"):
        restore(settings, bad)
    import io
    import tarfile

    with tarfile.open(bad, "w") as archive:
        info = tarfile.TarInfo("../../outside")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(BackupError, match="not a backup"):
        restore(settings, bad)
    assert not (tmp_path.parent / "outside").exists()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of each kind."""
    url = f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    found = Store(url)
    yield found
    found.close()


def test_migrations_make_the_schema_of_the_tables(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    store.migrate()
    store.migrate()
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_newer_schema_is_refused(store: Store) -> None:
    store.migrate()
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer than this program"):
        store.migrate()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "postgresql://nobody@127.0.0.1:1/none"])
def test_databases_that_cannot_be_used(url: str) -> None:
    with pytest.raises(StoreError):
        Store(url).migrate()


def test_units_grow_under_load_and_calls_over_capacity_are_throttled(start: Callable[..., Server], bundle: Bundle) -> None:
    server = start(hosting_queue=1)
    bench = bench_of(server, bundle)
    bench.make("train")
    bench.model()
    bench.hosted(MaxInferenceUnits=2)
    described = bench.api.describe_model(ProjectName="parts", ModelVersion="1")["ModelDescription"]
    assert (described["MinInferenceUnits"], described["MaxInferenceUnits"]) == (1, 2)
    picture = png(bundle.manifest.picture.width, bundle.manifest.picture.height)
    outcomes: list[tuple[str, str | None]] = []
    over = threading.Event()
    key = server.credential()

    def ask() -> None:
        mine = Bench(server, server.client(key), None, "parts", bundle)
        while not over.is_set():
            try:
                detect(mine, picture)
                outcomes.append(("answered", None))
            except ClientError as error:
                headers = error.response["ResponseMetadata"]["HTTPHeaders"]
                outcomes.append((error.response["Error"]["Code"], headers.get("retry-after")))
                time.sleep(0.01)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()

    def units() -> dict[str, float]:
        text = urllib.request.urlopen(f"{server.url}/-/metrics", timeout=5).read().decode()
        return {x[len("linewatch_") : x.index("_inference")]: float(x.split()[-1]) for x in text.splitlines()
                if "_inference_units{" in x}  # fmt: skip

    try:
        wait_for(units, lambda found: found == {"min": 1, "max": 2, "desired": 2, "in_service": 2}, 30)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {outcome for outcome, _ in outcomes} == {"answered", "ThrottlingException"}
    assert {after for outcome, after in outcomes if outcome != "answered"} <= {"1", "2", "3", "4", "5"}
    text = urllib.request.urlopen(f"{server.url}/-/metrics", timeout=5).read().decode()
    labels = '{ModelVersion="1",ProjectName="parts"}'
    answered = sum(kind == "answered" for kind, _ in outcomes)
    assert f"linewatch_processed_images_total{labels} {answered}.0" in text
    assert f"linewatch_throttled_requests_total{labels} {len(outcomes) - answered}.0" in text
    with pytest.raises(ClientError):
        detect(bench, b"no picture")
    bench.stopped()
    with pytest.raises(ClientError):
        detect(bench, picture)
    text = urllib.request.urlopen(f"{server.url}/-/metrics", timeout=5).read().decode()
    anomalies = re.search(rf"^linewatch_detected_anomalies_total{re.escape(labels)} (\d+).0$", text, re.MULTILINE)
    assert (int(anomalies[1]) if anomalies else 0) in (0, answered)  # it was one picture all the time
    assert f"linewatch_invalid_images_total{labels} 1.0" in text
    assert f"linewatch_failed_requests_total{labels} 1.0" in text
    assert f"linewatch_inference_seconds_count{labels} {answered}.0" in text
    assert units() == {}
    server.stop()


def test_calls_that_were_accepted_are_answered_when_the_model_stops(start: Callable[..., Server], bundle: Bundle) -> None:
    server = start(hosting_queue=20)
    bench = bench_of(server, bundle)
    bench.make("train")
    bench.model()
    bench.hosted()
    picture = png(bundle.manifest.picture.width, bundle.manifest.picture.height)
    outcomes: list[str] = []
    key = server.credential()

    def ask() -> None:
        mine = Bench(server, server.client(key), None, "parts", bundle)
        for _ in range(20):
            try:
                detect(mine, picture)
                outcomes.append("answered")
            except ClientError as error:
                outcomes.append(str(error.response["Error"]["Code"]))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(outcomes), lambda n: n > 10)
    bench.stopped()
    for thread in threads:
        thread.join()
    # Accepted calls are answered; later ones are told that the model is stopping.
    assert set(outcomes) <= {"answered", "ConflictException", "ThrottlingException"}
    assert outcomes.count("answered") > 10
    server.stop()


def test_a_forgotten_model_is_stopped(start: Callable[..., Server], bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from linewatch.control_plane.hosting.hosted_model import HostedModel
    from linewatch.control_plane.hosting.manager import HostingManager

    hosted = HostedModel.__new__(HostedModel)
    manager = HostingManager(Settings(hosting_idle_min=5), Store("sqlite:///unused.db"))
    hosted.last_call = time.monotonic() - 290
    assert not manager._idle(hosted)
    hosted.last_call = time.monotonic() - 310
    assert manager._idle(hosted)


def test_cascading_deletes(start: Callable[..., Server], bundle: Bundle) -> None:
    bench = bench_of(start(delete_cascades="true"), bundle)
    bench.make("train", "test", lines=3)
    bench.api.delete_project(ProjectName="parts")
    assert bench.api.list_projects()["Projects"] == []


def test_a_restart_forgets_nothing(start: Callable[..., Server], bundle: Bundle) -> None:
    server = start()
    bench = bench_of(server, bundle)
    bench.make("train", lines=30)
    for version in (1, 2):
        bench.model(version=version)
        bench.hosted(str(version))
    token = bench.api.list_dataset_entries(ProjectName="parts", DatasetType="train", MaxResults=10)["NextToken"]
    key = server.credential()
    server.client(key).create_project(ProjectName="other", ClientToken="once")
    server.stop()
    server.start()
    client = server.client(key)
    page = client.list_dataset_entries(ProjectName="parts", DatasetType="train", MaxResults=10, NextToken=token)
    assert json.loads(page["DatasetEntries"][0])["source-ref"].endswith("00010.png")
    client.create_project(ProjectName="other", ClientToken="once")

    def statuses() -> set[str]:
        return {m["Status"] for m in client.list_models(ProjectName="parts")["Models"]}

    assert statuses() <= {"SYSTEM_UPDATING", "HOSTED"}
    wait_for(statuses, lambda found: found == {"HOSTED"}, 60)
    picture = png(bundle.manifest.picture.width, bundle.manifest.picture.height)
    for version in ("1", "2"):
        answer = client.detect_anomalies(ProjectName="parts", ModelVersion=version, Body=picture, ContentType="image/png")
        assert "DetectAnomalyResult" in answer
    assert manifest(1)
    server.stop()


def test_the_server_needs_no_trainer(tmp_path: Path) -> None:
    """Importing the server loads neither torch nor TVM: jobs have processes of their own."""
    code = ("import sys, linewatch.control_plane.server\n"
            "print([m for m in ('torch', 'tvm', 'linewatch.training', 'linewatch.packager.package') if m in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ), cwd=ROOT)
    assert done.stdout.strip() == "[]"
