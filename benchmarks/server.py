"""The server's speed: latency and rate of calls, pages of a large dataset, pictures against the bare runtime, and memory.

    python -m benchmarks.server [--json FILE] [--calls N]

Requests are signed once and sent again and again over connections that stay open, so that what is measured is the server and
not a client's signing. The bare runtime judges the same decoded picture in processes of its own, as many as the server has
inference units, in the same run.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.processes import run_together, this_machine
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.policy import ROLES
from linewatch.control_plane.access.registry import Registry
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import models, projects
from linewatch.training.data.reading import read_dataset
from linewatch.training.options import TrainingOptions
from linewatch.training.train import train

REGION, ACCOUNT, PROJECT = "us-east-1", "000000000000", "bench"
ENTRIES, PAGE, CHANGES = 16_000, 100, 1_000
BARE = """
import sys, time
from pathlib import Path
from linewatch.anomaly_model.bundle import open_bundle
from linewatch.anomaly_model.detection import detect
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.runtime_choice import open_runtime
bundle = open_bundle(Path(sys.argv[1]))
picture, runtime = read_picture(Path(sys.argv[2])), open_runtime(bundle, "auto", threads=1)
for _ in range(10):
    detect(picture, runtime, bundle.manifest)
print("ready", flush=True)
sys.stdin.readline()
end, calls = time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < end:
    detect(picture, runtime, bundle.manifest)
    calls += 1
print(calls)
"""


class Bench:
    """A server and signed requests to it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        environment = {**os.environ, "LINEWATCH_SERVER_DATA": str(self.data), "LINEWATCH_SERVER_PORT": "0"}
        self.log = folder / "server.log"
        with self.log.open("wb") as stream:
            command = [sys.executable, "-P", "-m", "linewatch", "serve"]
            self.process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        while '"server listening"' not in self.log.read_text():
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.05)
        line = next(x for x in self.log.read_text().splitlines() if '"server listening"' in x)
        self.url = json.loads(line)["url"]
        self.store = Store(Settings(data=str(self.data)).database_url)
        made = Registry(self.store, MasterKey.open(self.data)).create(ACCOUNT, "bench", ROLES["full"])
        self.keys = Credentials(made["access_key_id"], made["secret_access_key"])

    def close(self) -> None:
        """End the server."""
        self.store.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[str, str, bytes, dict[str, str]]:
        """A signed request, to be sent as often as one likes."""
        request = AWSRequest(method, f"{self.url}/2020-11-20{path}", {"Content-Type": kind} if body else {}, body)
        SigV4Auth(self.keys, "lookoutvision", REGION).add_auth(request)
        return method, f"/2020-11-20{path}", body, dict(request.headers)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that stays open."""
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def ask(self, request: tuple[str, str, bytes, dict[str, str]], connection: http.client.HTTPConnection | None = None) -> tuple[int, Any]:
        """Send a request once."""
        link = connection or self.connect()
        link.request(request[0], request[1], request[2] or None, request[3])
        answer = link.getresponse()
        data = answer.read()
        if connection is None:
            link.close()
        return answer.status, json.loads(data)

    def must(self, method: str, path: str, value: Any = None) -> Any:
        """A call that succeeds."""
        status, answer = self.ask(self.request(method, path, b"" if value is None else json.dumps(value).encode()))
        if status >= 300:
            raise SystemExit(f"{method} {path}: {status} {answer}")
        return answer

    def rss_mib(self) -> float:
        """Resident memory of the server's own process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


def times_ms(bench: Bench, request: Any, count: int, connections: int = 1) -> tuple[list[float], float]:
    """Latencies in ms and calls a second, with some connections at the same time."""
    def work(_: int) -> list[float]:
        link, found = bench.connect(), []
        for _ in range(count // connections):
            began = time.perf_counter()
            status, answer = bench.ask(request, link)
            if status != 200:
                raise SystemExit(f"{request[1]}: {status} {answer}")
            found.append(1000 * (time.perf_counter() - began))
        link.close()
        return found

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        found = [t for part in pool.map(work, range(connections)) for t in part]
    return found, len(found) / (time.perf_counter() - began)


def summary(times: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"p50_ms": round(statistics.median(times), 2), "p99_ms": round(sorted(times)[int(len(times) * 0.99)], 2)}


def lines(start: int, count: int) -> bytes:
    """Lines of a dataset."""
    about = {"class-name": "normal", "type": "groundtruth/image-classification", "human-annotated": "yes",
             "creation-date": "2026-01-02T03:04:05", "job-name": "labeling-job/x", "confidence": 1}  # fmt: skip
    rows = ({"source-ref": f"s3://pictures/line-7/part-{i:06d}.png", "anomaly-label": 0, "anomaly-label-metadata": about}
            for i in range(start, start + count))  # fmt: skip
    return "\n".join(json.dumps(row) for row in rows).encode()


def wait(describe: Callable[[], str], wanted: str) -> None:
    """Poll every few milliseconds."""
    while (status := describe()) != wanted:
        if "FAILED" in status:
            raise SystemExit(status)
        time.sleep(0.005)


def update(bench: Bench, data: bytes) -> tuple[float, float]:
    """Seconds to the answer, and to UPDATE_COMPLETE."""
    body = json.dumps({"Changes": base64.b64encode(data).decode()}).encode()
    path = f"/projects/{PROJECT}/datasets/train"
    request = bench.request("PATCH", f"{path}/entries", body)
    began = time.perf_counter()
    status, answer = bench.ask(request)
    if status != 202:
        raise SystemExit(str(answer))
    answered = time.perf_counter() - began
    wait(lambda: str(bench.must("GET", path)["DatasetDescription"]["Status"]), "UPDATE_COMPLETE")
    return answered, time.perf_counter() - began


def measure_entries(bench: Bench) -> dict[str, Any]:
    """Updates, and pages from the first to the last."""
    bench.must("POST", f"/projects/{PROJECT}/datasets", {"DatasetType": "train"})
    for start in range(0, ENTRIES - CHANGES, 5000):
        update(bench, lines(start, min(5000, ENTRIES - CHANGES - start)))
    answered, done = update(bench, lines(ENTRIES - CHANGES, CHANGES))
    path, token, pages, link = f"/projects/{PROJECT}/datasets/train/entries?maxResults={PAGE}", "", [], bench.connect()
    while True:
        request = bench.request("GET", f"{path}&nextToken={quote(token, safe='')}" if token else path)
        began = time.perf_counter()
        _, answer = bench.ask(request, link)
        pages.append(1000 * (time.perf_counter() - began))
        token = answer.get("NextToken", "")
        if not token:
            break
    link.close()
    tenth = len(pages) // 10
    return {
        "update_1000_lines": {"answer_ms": round(1000 * answered, 1), "complete_ms": round(1000 * done, 1)},
        "list_entries": {
            "entries": ENTRIES, "pages": len(pages), **summary(pages), "first_tenth_p50_ms": round(statistics.median(pages[:tenth]), 2),
            "last_tenth_p50_ms": round(statistics.median(pages[-tenth:]), 2),
        },
    }  # fmt: skip


def host(bench: Bench, bundle: Path, units: int) -> None:
    """Put a model into the store, as a training would, and host it."""
    with bench.store.write() as c:
        project_id = c.execute(sa.select(projects.c.id)).scalar()
        known = c.execute(sa.select(models.c.id)).scalar()
        if known is None:
            known = c.execute(sa.insert(models).values(
                project_id=project_id, version=1, status="TRAINED", created=1.0, output_bucket="o", output_prefix=""
            ).returning(models.c.id)).scalar_one()  # fmt: skip
            target = bench.data / "models" / str(known)
            target.mkdir(parents=True)
            (target / "bundle").symlink_to(bundle)
    path = f"/projects/{PROJECT}/models/1"

    def status() -> str:
        return str(bench.must("GET", path)["ModelDescription"]["Status"])

    if status() == "HOSTED":
        bench.must("POST", f"{path}/stop")
        wait(status, "TRAINED")
    bench.must("POST", f"{path}/start", {"MinInferenceUnits": units})
    wait(status, "HOSTED")


def bare_rate(bundle: Path, picture: Path, processes: int, seconds: float) -> float:
    """Pictures a second of the runtime alone, in as many processes."""
    return sum(run_together(BARE, [str(bundle), str(picture), str(seconds)], processes)) / seconds


def measure_pictures(bench: Bench, folder: Path) -> dict[str, Any]:
    """DetectAnomalies with 1, 4 and 16 clients."""
    write_set(folder / "parts", PartSet(30, 30, 1, 1, seed=1))
    bundle = folder / "bundle"
    train(read_dataset(folder / "parts" / "train"), bundle, TrainingOptions(net_steps=0))
    picture = next((folder / "parts" / "test" / "normal").iterdir())
    found: dict[str, Any] = {}
    for clients, units in ((1, 1), (4, 2), (16, 4)):
        host(bench, bundle, units)
        request = bench.request("POST", f"/projects/{PROJECT}/models/1/detect", picture.read_bytes(), "image/png")
        times_ms(bench, request, 20 * clients, clients)
        times, rate = times_ms(bench, request, 300 if clients == 1 else 400, clients)
        bare = bare_rate(bundle, picture, min(units, os.cpu_count() or 1), 3)
        found[f"clients_{clients}"] = {
            "units": units, **summary(times), "calls_per_s": round(rate, 1), "bare_per_s": round(bare, 1),
            "ratio_to_bare": round(rate / bare, 3),
        }  # fmt: skip
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--calls", type=int, default=10_000, help="calls for the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder)
        try:
            bench.must("POST", "/projects", {"ProjectName": PROJECT})
            describe = bench.request("GET", f"/projects/{PROJECT}")
            times_ms(bench, describe, 200)
            times, rate = times_ms(bench, describe, 2000)
            _, rate_4 = times_ms(bench, describe, 2000, 4)
            found: dict[str, Any] = {
                "machine": this_machine(),
                "describe_project": {**summary(times), "calls_per_s": round(rate), "calls_per_s_4_connections": round(rate_4)},
                **measure_entries(bench), "detect_anomalies": measure_pictures(bench, folder),
            }  # fmt: skip
            describe = bench.request("GET", f"/projects/{PROJECT}")
            times_ms(bench, describe, 1000, 4)
            before = bench.rss_mib()
            times_ms(bench, describe, arguments.calls, 4)
            after = bench.rss_mib()
            found["memory"] = {"calls": arguments.calls, "before_mib": round(before, 1), "after_mib": round(after, 1)}
        finally:
            bench.close()
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
