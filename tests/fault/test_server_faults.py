"""The server under faults: killed at random moments, workers killed, a full disk, S3 that fails. What was acknowledged stays."""

import http.client
import http.server
import json
import os
import random
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.processes import free_port
from linewatch.control_plane.store.schema import entries, job_events, jobs
from tests.clients.plant import BUCKET, write_plant
from tests.conftest import old_client
from tests.server import REGION, Server, wait_for

pytestmark = pytest.mark.fault
CYCLES = int(os.environ.get("LINEWATCH_KILL_CYCLES", "1"))
SMALL = {"training_effort": "quick", "training_encoder": "none", "least_normal": 10, "least_anomaly": 10, "least_label": 2,
         "hosting_start_s": 60,
         "least_normal_each": 2, "least_test_anomaly": 2, "least_label_each": 0}  # fmt: skip
DONE = {"SUCCEEDED", "FAILED", "CANCELLED"}


@pytest.fixture(scope="module")
def plant(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plant") / "plant"
    write_plant(parts, folder, per_class=12, tests=1)
    return folder


def upload(server: Server, plant: Path) -> None:
    """The plant's files, as files."""
    shutil.copytree(plant, server.data / "objects" / BUCKET, dirs_exist_ok=True)


def status(client: Any, version: str = "1") -> str:
    return str(client.describe_model(ProjectName="parts", ModelVersion=version)["ModelDescription"]["Status"])


def job_rows(server: Server) -> list[Any]:
    store = server.store()
    with store.read() as connection:
        rows = connection.execute(sa.select(jobs).order_by(jobs.c.id)).all()
    store.close()
    return list(rows)


def processes_below(text: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


class Persistent:
    """A client that makes each call until it is answered, with one token, as SDKs do."""

    def __init__(self, server: Server, credential: dict[str, str]) -> None:
        self.server, self.credential = server, credential

    def __call__(self, name: str, tokened: bool = True, seconds: float = 90, **parameters: Any) -> Any:
        if tokened:
            parameters["ClientToken"] = secrets.token_hex(8)
        deadline = time.monotonic() + seconds
        while True:
            try:
                client = self.server.client(self.credential, connect_timeout=2, read_timeout=20)
                answer = getattr(client, name)(ProjectName="parts", **parameters)
                # botocore takes an answer whose connection was cut behind the headers for an empty one.
                if len(answer) > 1 or answer["ResponseMetadata"]["HTTPHeaders"].get("content-length") == "2":
                    return answer
                reason: Exception = ConnectionError("the answer was cut off")
            except (BotoCoreError, ConnectionError) as error:
                reason = error
            except ClientError as error:
                if error.response["Error"]["Code"] != "ThrottlingException":
                    raise
                reason = error
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: {reason}")
            time.sleep(0.1)

    def distribute(self, seconds: float = 90) -> None:
        """DistributeDatasetEntries, which has no token: one that was made though its answer was lost finds the test dataset filled."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                client = self.server.client(self.credential, "rekognition", connect_timeout=2, read_timeout=20)
                found = client.describe_projects(ProjectNames=["parts"])["ProjectDescriptions"][0]["Datasets"]
                client.distribute_dataset_entries(Datasets=[{"Arn": d["DatasetArn"]} for d in found])
            except (BotoCoreError, ConnectionError, KeyError):
                time.sleep(0.1)
            except ClientError as error:
                if error.response["Error"]["Code"] in ("InvalidParameterException", "ResourceNotReadyException"):
                    return
                raise
            else:
                return
        raise AssertionError("the entries were not distributed")

    def until(self, name: str, describe: Callable[[Any], Any], wanted: set[Any], seconds: float = 120, **parameters: Any) -> Any:
        return wait_for(lambda: describe(self(name, tokened=False, **parameters)), lambda found: found in wanted, seconds)


@pytest.mark.parametrize("cycle", range(CYCLES))
def test_killed_at_random_moments(plant: Path, tmp_path: Path, cycle: int) -> None:
    chance = random.Random(cycle)
    server = Server(tmp_path / "data", {**SMALL, "port": free_port()}).start()
    upload(server, plant)
    call = Persistent(server, server.credential())
    over = threading.Event()
    kills = []

    def kill_again_and_again() -> None:
        while not over.wait(chance.uniform(0.2, 4.0)) and len(kills) < 12:
            server.kill()
            kills.append(time.monotonic())
            server.start()

    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    try:
        call("create_project")
        source = {"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": "train.manifest"}}}
        call("create_dataset", DatasetType="train", DatasetSource=source)
        train = {"DatasetType": "train"}

        def stats(answer: Any) -> tuple[str, int]:
            found = answer["DatasetDescription"]
            return found["Status"], found["ImageStats"]["Total"]

        assert call.until("describe_dataset", stats, {("CREATE_COMPLETE", 24)}, **train)
        for i in range(3):
            lines = "\n".join(json.dumps({"source-ref": f"s3://{BUCKET}/new-{i}-{j}.png"}) for j in range(5))
            call("update_dataset_entries", Changes=lines, **train)
            assert call.until("describe_dataset", stats, {("UPDATE_COMPLETE", 24 + 5 * (i + 1))}, **train)
        call("create_dataset", DatasetType="test")
        call.distribute()
        test = {"DatasetType": "test"}
        assert call.until("describe_dataset", stats, {("UPDATE_COMPLETE", 32)}, **train)
        assert call.until("describe_dataset", stats, {("UPDATE_COMPLETE", 7)}, **test)
        lines = [json.loads(x)["source-ref"] for k in (train, test) for x in call("list_dataset_entries", tokened=False, **k)["DatasetEntries"]]
        assert len(set(lines)) == len(lines) == 39
        made = call("create_model", OutputConfig={"S3Location": {"Bucket": BUCKET, "Prefix": "out/"}})
        assert made["ModelMetadata"]["ModelVersion"] == "1"
        version = {"ModelVersion": "1"}

        def model(answer: Any) -> str:
            return str(answer["ModelDescription"]["Status"])

        assert call.until("describe_model", model, {"TRAINED", "TRAINING_FAILED"}, 240, **version) == "TRAINED"
        call("start_model", MinInferenceUnits=1, **version)
        assert call.until("describe_model", model, {"HOSTED", "HOSTING_FAILED"}, **version) == "HOSTED"
        picture = min((plant / "test").glob("anomaly-*"))
        found = call("detect_anomalies", tokened=False, Body=picture.read_bytes(), ContentType="image/png", **version)
        assert found["DetectAnomalyResult"]["Anomalies"][0]["Name"] == "background"
        call("stop_model", **version)
        assert call.until("describe_model", model, {"TRAINED"}, **version)
        call("delete_model", **version)
        assert call.until("list_models", lambda a: len(a["Models"]), {0}) == 0
        call("delete_dataset", **train)
        call("delete_dataset", **test)
        call("delete_project")
        over.set()
        killer.join()
        wait_for(lambda: {job.state for job in job_rows(server)}, lambda states: states <= DONE)
        states = [(job.kind, job.state, job.message) for job in job_rows(server)]
        assert all(state == "SUCCEEDED" for _, state, _ in states), states
        store = server.store()
        with store.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(entries)).scalar() == 0
            rows = connection.execute(sa.select(job_events).order_by(job_events.c.job_id, job_events.c.id)).all()
        store.close()
        for before, after in pairwise(rows):
            if before.job_id == after.job_id:
                assert before.after == after.before  # each step begins where the last one ended: none ran twice
        assert not list((server.data / "models").iterdir())
        assert not processes_below(f"{server.data}/jobs")
        server.stop()
        assert "Traceback" not in server.log
    finally:
        over.set()
        killer.join()
        server.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """A dask scheduler and two workers, as on machines of their own."""
    address = f"tcp://127.0.0.1:{free_port()}"
    commands = [["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]]
    commands += [["distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard",
                  "--local-directory", str(tmp_path)]] * 2  # fmt: skip
    running = []
    for command in commands:
        with (tmp_path / "dask.log").open("ab") as log:
            running.append(subprocess.Popen([sys.executable, "-P", "-m", *command], stdout=log, stderr=log, cwd=tmp_path))
    try:
        yield address, running[1:]
    finally:
        for process in running:
            process.kill()
            process.wait()


def begin_training(server: Server) -> Any:
    client = server.client(server.credential())
    client.create_project(ProjectName="parts")
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": "train.manifest"}}}
    client.create_dataset(ProjectName="parts", DatasetType="train", DatasetSource=source)
    client.create_model(ProjectName="parts", OutputConfig={"S3Location": {"Bucket": BUCKET}})
    return client


def test_a_workers_death_gives_its_job_to_another(plant: Path, tmp_path: Path, cluster: tuple[str, list[Any]]) -> None:
    address, workers = cluster
    server = Server(tmp_path / "data", {**SMALL, "jobs_scheduler": address, "jobs_parallel": 2}).start()
    try:
        upload(server, plant)
        client = begin_training(server)
        def found() -> tuple[list[int], str, str]:
            told = client.describe_model(ProjectName="parts", ModelVersion="1")["ModelDescription"]["StatusMessage"]
            return processes_below(f"linewatch.training.job {server.data}"), told, (tmp_path / "dask.log").read_text()

        children, *_ = wait_for(found, lambda found: bool(found[0]))
        parent = int(Path(f"/proc/{children[0]}/stat").read_text().rpartition(")")[2].split()[1])
        victim = next(w for w in workers if w.pid == parent)
        victim.kill()
        victim.wait()
        wait_for(lambda: children[0] in processes_below("linewatch.training.job"), lambda alive: not alive)
        assert wait_for(lambda: status(client), lambda s: s != "TRAINING", 180) == "TRAINED"
        training = [job for job in job_rows(server) if job.kind == "train"]
        assert [job.state for job in training] == ["SUCCEEDED"]
        server.stop()
    finally:
        server.kill()


def test_a_cancelled_job_ends_its_training(plant: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {**SMALL, "training_effort": "thorough"}).start()
    try:
        upload(server, plant)
        client = begin_training(server)
        wait_for(lambda: processes_below(f"linewatch.training.job {server.data}"), bool)
        with pytest.raises(ClientError, match="ConflictException"):
            client.delete_model(ProjectName="parts", ModelVersion="1")
        assert processes_below(f"linewatch.training.job {server.data}")
        job = next(job.id for job in job_rows(server) if job.kind == "train")
        command = [sys.executable, "-P", "-m", "linewatch", "jobs"]
        data = ["--data", str(server.data), "--json"]
        done = subprocess.run([*command, "cancel", str(job), *data], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["state"] == "CANCELLED"
        found = client.describe_model(ProjectName="parts", ModelVersion="1")["ModelDescription"]
        assert (found["Status"], "with linewatch jobs cancel" in found["StatusMessage"]) == ("TRAINING_FAILED", True)
        wait_for(lambda: processes_below(f"linewatch.training.job {server.data}"), lambda found: not found, 30)
        wait_for(lambda: list((server.data / "models").iterdir()), lambda found: not found)
        shown = json.loads(subprocess.run([*command, "show", str(job), *data], capture_output=True, text=True, check=True).stdout)
        assert [step["to"] for step in shown["steps"]] == ["RUNNING", "CANCELLED"]
        again = subprocess.run([*command, "cancel", str(job), *data], capture_output=True, text=True, check=False)
        assert (again.returncode, "is CANCELLED already" in again.stderr) == (1, True)
        assert json.loads(subprocess.run([*command, "list", *data], capture_output=True, text=True, check=True).stdout) == []
        client.delete_model(ProjectName="parts", ModelVersion="1")
        server.stop()
    finally:
        server.kill()


def test_a_stopped_server_goes_on_with_its_training(plant: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", SMALL).start()
    try:
        upload(server, plant)
        begin_training(server)
        wait_for(lambda: processes_below(f"linewatch.training.job {server.data}"), bool)
        server.stop()
        assert not processes_below(f"linewatch.training.job {server.data}")
        server.start()
        client = server.client(server.credential())
        assert wait_for(lambda: status(client), lambda s: s != "TRAINING", 180) == "TRAINED"
        assert [job.attempt for job in job_rows(server) if job.kind == "train"] == [2]
        server.stop()
        assert "Traceback" not in server.log
    finally:
        server.kill()


def test_a_scheduler_that_is_away_keeps_nobody_from_working(plant: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {**SMALL, "jobs_scheduler": f"tcp://127.0.0.1:{free_port()}"}).start()
    try:
        upload(server, plant)
        client = begin_training(server)

        def message() -> str:
            return str(client.describe_model(ProjectName="parts", ModelVersion="1")["ModelDescription"]["StatusMessage"])

        client.create_dataset(ProjectName="parts", DatasetType="test")
        began = time.monotonic()
        client.update_dataset_entries(ProjectName="parts", DatasetType="test", Changes=json.dumps({"source-ref": f"s3://{BUCKET}/k"}))
        wait_for(lambda: client.describe_dataset(ProjectName="parts", DatasetType="test")["DatasetDescription"]["Status"],
                 lambda s: s == "UPDATE_COMPLETE", 10)  # fmt: skip
        assert time.monotonic() - began < 10
        assert "waiting for the dask scheduler" in wait_for(message, bool, 60)
        assert status(client) == "TRAINING"
        server.stop()
    finally:
        server.kill()


def test_leftovers_of_killed_servers_are_removed() -> None:
    from linewatch.control_plane.hosting.hosted_model import SEGMENTS, clear_leftovers

    dead = subprocess.Popen(["true"])
    dead.wait()
    gone, kept = SEGMENTS / f"linewatch-{dead.pid}-0123abcd", SEGMENTS / f"linewatch-{os.getpid()}-0123abcd"
    for path in (gone, kept):
        path.touch()
    try:
        clear_leftovers()
        assert (gone.exists(), kept.exists()) == (False, True)
    finally:
        kept.unlink()


def test_a_hosted_model_comes_back_when_its_agent_or_worker_dies(parts: Path, tmp_path: Path, bundle: Any) -> None:
    from tests.contract.control_plane.conftest import Bench

    server = Server(tmp_path / "data", SMALL).start()
    try:
        credential = server.credential()
        bench = Bench(server, server.client(credential), server.client(credential, "s3"), "parts", bundle)
        bench.make("train")
        bench.model()
        bench.hosted()
        picture = min((parts / "test" / "normal").iterdir()).read_bytes()

        def ask() -> str:
            try:
                bench.api.detect_anomalies(ProjectName="parts", ModelVersion="1", Body=picture, ContentType="image/png")
            except ClientError as error:
                return str(error.response["Error"]["Code"])
            return "answered"

        assert ask() == "answered"
        folder = f"{server.data}/models"
        assert server.process is not None
        mine = f"linewatch-hosting-{server.process.pid}-"
        for process, part in (("linewatch.edge_agent.workers.worker", folder), ("linewatch.edge_agent --models", mine)):
            victims = [p for p in processes_below(process) if part in Path(f"/proc/{p}/cmdline").read_text()]
            assert victims
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            wait_for(ask, {"answered": True, "ThrottlingException": False}.__getitem__, 60)  # any other answer is a KeyError
            wait_for(bench.status, lambda s: s == "HOSTED")
        server.stop()
        assert not processes_below(folder)
    finally:
        server.kill()


def test_a_full_disk_loses_nothing(plant: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", SMALL).start()
    try:
        assert server.process is not None
        pid = server.process.pid
        client = server.client(server.credential())
        s3 = server.client(server.credential(), "s3")
        s3.create_bucket(Bucket="bkt", CreateBucketConfiguration={"LocationConstraint": REGION})
        client.create_project(ProjectName="parts")
        client.create_dataset(ProjectName="parts", DatasetType="train")
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))  # every file is full
        outcomes = set()
        for i in range(5):
            for request in (lambda i=i: client.create_project(ProjectName=f"p{i}"),
                            lambda i=i: s3.put_object(Bucket="bkt", Key=f"k{i}", Body=b"x" * 100),
                            lambda: client.update_dataset_entries(ProjectName="parts", DatasetType="train", Changes=b"{}")):  # fmt: skip
                with pytest.raises(ClientError) as caught:
                    request()
                outcomes.add(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])
        assert outcomes <= {500, 503}
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        assert [p["ProjectName"] for p in client.list_projects()["Projects"]] == ["parts"]
        assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 0
        client.create_project(ProjectName="p0")
        s3.put_object(Bucket="bkt", Key="k", Body=b"x")
        client.update_dataset_entries(ProjectName="parts", DatasetType="train", Changes=json.dumps({"source-ref": "s3://b/k"}))
        server.stop()
    finally:
        server.kill()


class Moody(http.server.BaseHTTPRequestHandler):
    """Between the server and S3: passes requests on, or fails as it is told."""

    upstream = ""
    failures: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """One request, whatever its method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.failures.pop() if self.failures else "good"
        if mood == "cut":
            self.close_connection = True
            return
        if mood == "silence":
            time.sleep(3)
            self.close_connection = True
            return
        if mood == "500":
            self._send(500, {}, b"", None)
            return
        connection = http.client.HTTPConnection(self.upstream, timeout=20)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "expect")}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self._send(answer.status, dict(answer.headers), data, answer.headers.get("Content-Length"))

    def _send(self, status: int, headers: dict[str, str], data: bytes, length: str | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date", "content-length"):
                self.send_header(name, value)
        head = self.command == "HEAD"
        self.send_header("Content-Length", (length if head else None) or str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if head else data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def moody_s3(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """moto's S3 behind something that may fail; gives its address, and the list of failures to come."""
    port = free_port()
    command = [old_client().with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    Moody.upstream, Moody.failures = f"127.0.0.1:{port}", []
    between = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    thread = threading.Thread(target=between.serve_forever)
    thread.start()
    try:
        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers, bool, 30)
        yield f"http://127.0.0.1:{between.server_port}", Moody.failures
    finally:
        between.shutdown()
        thread.join()
        between.server_close()
        process.kill()
        process.wait()


def test_s3_that_fails(plant: Path, tmp_path: Path, moody_s3: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    address, failures = moody_s3
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    for name, value in keys.items():
        monkeypatch.setenv(name.upper(), value)
    s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket=BUCKET)
    for path in plant.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, path.relative_to(plant).as_posix())
    server = Server(tmp_path / "data", {**SMALL, "objects": "s3", "objects_endpoint": address, "objects_timeout_s": 1}).start()
    try:
        client = server.client(server.credential())
        client.create_project(ProjectName="parts")
        source = {"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": "train.manifest"}}}

        def dataset() -> tuple[str, str]:
            found = client.describe_dataset(ProjectName="parts", DatasetType="train")["DatasetDescription"]
            return found["Status"], found["StatusMessage"]

        failures.extend(["500"] * 100_000)
        client.create_dataset(ProjectName="parts", DatasetType="train", DatasetSource=source)
        state, message = wait_for(dataset, lambda found: found[0] != "CREATE_IN_PROGRESS", 120)
        assert state == "CREATE_FAILED"
        assert f"s3://{BUCKET}/train.manifest" in message
        failures.clear()
        client.delete_dataset(ProjectName="parts", DatasetType="train")
        failures.extend(["cut", "500", "silence", "500"])
        client.create_dataset(ProjectName="parts", DatasetType="train", DatasetSource=source)
        assert wait_for(dataset, lambda found: found[0] != "CREATE_IN_PROGRESS", 120)[0] == "CREATE_COMPLETE"
        failures.extend(["500", "cut", "silence"])
        client.create_model(ProjectName="parts", OutputConfig={"S3Location": {"Bucket": BUCKET, "Prefix": "out/"}})
        assert wait_for(lambda: status(client), lambda s: s != "TRAINING", 180) == "TRAINED"
        described = client.describe_model(ProjectName="parts", ModelVersion="1")["ModelDescription"]
        body = s3.get_object(Bucket=BUCKET, Key=described["EvaluationResult"]["Key"])["Body"].read()
        assert json.loads(body)["EvaluationDetails"]["ModelArn"] == described["ModelArn"]
        server.stop()
    finally:
        server.kill()


def test_a_second_server_keeps_away(tmp_path: Path) -> None:
    server = Server(tmp_path / "data").start()
    try:
        with pytest.raises(AssertionError, match="another server uses the data folder"):
            Server(tmp_path / "data").start()
        server.stop()
    finally:
        server.kill()
