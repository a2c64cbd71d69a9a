"""The gateway's own answers: faults of ours, too many calls, a full disk; for every operation, over ASGI, without a network."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linewatch.control_plane import gateway as module
from linewatch.control_plane.access.audit import AuditLog
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.gateway import Gateway
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.services import Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.wire.page_tokens import PageTokens
from linewatch.control_plane.wire.service_model import Operation, operations

ALL = [o for service in ("lookoutvision", "rekognition") for o in operations(service).values()]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    options = Settings(data=str(tmp_path), anonymous=True, threads=2, calls_waiting=0)
    store = Store(options.database_url)
    store.migrate()
    yield Services(options, store, DirectoryObjects(tmp_path / "objects"), MasterKey.open(tmp_path), PageTokens(b"k"),
                   HostingManager(options, store))  # fmt: skip
    store.close()


@pytest.fixture
def gateway(services: Services, tmp_path: Path) -> Iterator[Gateway]:
    audit = AuditLog(tmp_path / "audit.log")
    found = Gateway(services, audit)
    yield found
    found.close()
    audit.close()


def request_of(operation: Operation) -> tuple[str, str, dict[str, str], bytes]:
    """Method, path, headers and body of a call that is valid as far as the path goes."""
    if operation.service == "rekognition":
        return "POST", "/", {"x-amz-target": f"RekognitionService.{operation.name}"}, b"{}"
    http = operation.model.http
    path = http["requestUri"]
    for label, value in {"projectName": "p", "datasetType": "train", "modelVersion": "1", "jobName": "j", "resourceArn": "arn"}.items():
        path = path.replace(f"{{{label}}}", value)
    return http["method"], path, {}, b"{}"


async def ask(
    gateway: Gateway, method: str, path: str, headers: dict[str, str], body: bytes, query: str = ""
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    fields = {"host": "127.0.0.1", "content-length": str(len(body)), **headers}
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode("latin-1"), "query_string": query.encode(),
             "client": ("127.0.0.1", 5), "headers": [(k.encode(), v.encode("latin-1")) for k, v in fields.items()]}  # fmt: skip
    await gateway(scope, receive, send)
    answer = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.action)
def test_a_fault_of_ours_tells_no_more_than_its_id(gateway: Gateway, operation: Operation, caplog: pytest.LogCaptureFixture) -> None:
    with (
        mock.patch.object(module, "parse_rest", side_effect=RuntimeError("secret detail")),
        mock.patch.object(module, "parse_json", side_effect=RuntimeError("secret detail")),
    ):
        status, headers, body = asyncio.run(ask(gateway, *request_of(operation)))
    code = "InternalServerError" if operation.service == "rekognition" else "InternalServerException"
    assert (status, headers["x-amzn-errortype"], json.loads(body)["__type"]) == (500, code, code)
    assert 1 <= int(headers["retry-after"]) <= 4
    assert "secret" not in body.decode()
    assert headers["x-amzn-requestid"] in json.loads(body)["Message"]
    assert "secret detail" in caplog.text
    assert headers["x-amzn-requestid"] in caplog.text


@pytest.mark.parametrize("operation", ALL, ids=lambda o: o.action)
def test_too_many_calls_are_throttled(gateway: Gateway, operation: Operation) -> None:
    gateway._calls = gateway._most_calls
    status, headers, body = asyncio.run(ask(gateway, *request_of(operation)))
    assert (status, json.loads(body)["__type"]) == (400 if operation.service == "rekognition" else 429, "ThrottlingException")
    assert headers["retry-after"] in {"1", "2", "3", "4"}
    assert gateway._calls == gateway._most_calls


def test_bodies_that_would_fill_the_memory_are_throttled(gateway: Gateway) -> None:
    reservations = [gateway._budget.reserve("", key, verified=True) for key in "ab"]
    for reservation in reservations:
        reservation.take(128 << 20)
    status, _, body = asyncio.run(ask(gateway, "POST", "/2020-11-20/projects", {}, b'{"ProjectName": "p"}'))
    assert (status, json.loads(body)["__type"]) == (429, "ThrottlingException")
    for reservation in reservations:
        reservation.release()
    assert gateway._budget.held == 0
    assert asyncio.run(ask(gateway, "POST", "/2020-11-20/projects", {}, b'{"ProjectName": "p"}'))[0] == 200


def test_a_body_longer_than_any_call_is_not_read(gateway: Gateway) -> None:
    headers = {"content-length": str(1 << 30), "expect": "100-continue"}
    status, answer, body = asyncio.run(ask(gateway, "POST", "/2020-11-20/projects", headers, b""))
    assert (status, json.loads(body)["__type"], answer["connection"]) == (413, "RequestEntityTooLargeException", "close")


def test_a_full_disk_is_told_to_s3(gateway: Gateway) -> None:
    asyncio.run(ask(gateway, "PUT", "/bkt", {}, b""))
    with mock.patch.object(DirectoryObjects, "adopt", side_effect=OSError(28, "No space left on device")):
        status, _, body = asyncio.run(ask(gateway, "PUT", "/bkt/k", {}, b"x"))
    assert (status, b"no space left" in body) == (503, True)


def test_a_client_that_goes_is_noted(gateway: Gateway, tmp_path: Path) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/2020-11-20/projects", "raw_path": b"/2020-11-20/projects", "query_string": b"",
             "client": None, "headers": [(b"host", b"localhost"), (b"content-length", b"5")]}  # fmt: skip
    asyncio.run(gateway(scope, receive, send))
    assert json.loads((tmp_path / "audit.log").read_text())["errorCode"] == "ClientGone"


def test_a_client_that_falls_silent_is_told_so(gateway: Gateway, tmp_path: Path) -> None:
    sent = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/2020-11-20/projects", "raw_path": b"/2020-11-20/projects", "query_string": b"",
             "client": None, "headers": [(b"host", b"localhost"), (b"content-length", b"5")]}  # fmt: skip
    services = gateway._services
    gateway._services = replace(services, settings=msgspec.structs.replace(services.settings, body_s=0.05))
    asyncio.run(gateway(scope, receive, send))
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (408, True)
    assert json.loads((tmp_path / "audit.log").read_text())["errorCode"] == "RequestTimeoutException"


SEGMENTS = st.sampled_from(["2020-11-20", "projects", "p", "datasets", "train", "entries", "models", "1", "latest", "detect", "start", "tags",
                            "modelpackagingjobs", "%2F", "..", "%00", "\u00e9".encode().decode("latin-1"), "bkt", "", "-", "x" * 300])  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=60),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda i: st.lists(i, max_size=3) | st.dictionaries(
        st.sampled_from(["ProjectName", "DatasetType", "DatasetSource", "GroundTruthManifest", "S3Object", "Bucket", "Key", "OutputConfig",
                         "S3Location", "Changes", "Tags", "Configuration", "Greengrass", "MinInferenceUnits", "ModelVersion"]), i,
        max_size=4), max_leaves=12).map(lambda v: json.dumps(v).encode()),
)  # fmt: skip
QUERIES = st.lists(st.sampled_from(["nextToken=%ff", "maxResults=-1", "maxResults=9" * 20, "labeled=x", "createdBefore=1e999", "a",
                                    "tagKeys=", "uploads", "uploadId=../x", "partNumber=0", "delete", "list-type=2", "max-keys=-5", "max-keys=%C2%B2",
                                    "partNumber=%C2%B2", "AWSAccessKeyId=a&Signature=%ff&Expires=" + "9" * 5000,
                                    "X-Amz-Signature=1", "prefix=%00"]), max_size=3).map("&".join)  # fmt: skip
HEADERS = st.lists(st.sampled_from([("x-amz-target", "RekognitionService.DescribeDataset"), ("x-amz-target", "\x00"),
                                    ("content-type", "image/png"), ("authorization", "AWS4-HMAC-SHA256 x"), ("range", "bytes=9-1"),
                                    ("x-amz-copy-source", "/%00/.."), ("x-amz-copy-source", "bkt"), ("content-length", "x"),
                                    ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), ("x-amzn-client-token", "a b"),
                                    ("content-md5", "\u00b2"), ("x-amz-checksum-crc32", "x"), ("if-match", "*"), ("if-none-match", "*"),
                                    ("x-amz-meta-a", "\u00e9".encode().decode("latin-1"))]), max_size=3).map(dict)  # fmt: skip


@given(method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]), parts=st.lists(SEGMENTS, max_size=7),
       query=QUERIES, headers=HEADERS, body=BODIES)  # fmt: skip
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_is_a_fault_of_ours(
    gateway: Gateway, method: str, parts: list[str], query: str, headers: dict[str, str], body: bytes
) -> None:  # fmt: skip
    status, _, answer = asyncio.run(ask(gateway, method, "/" + "/".join(parts), headers, body, query))
    assert status in {200, 202, 204, 206, *range(400, 430), 501}, answer
    assert b"Traceback" not in answer


FOREIGN = [
    {"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": "localhost.evil.example:8700"}, {"host": "10.0.0.5:8700"},
    {"host": "localhost:8700,evil.example"}, {"host": ""}, {"host": "127.1"}, {"host": "[::2]"}, {"origin": "null"},
    {"origin": "http://evil.example"}, {"origin": "http://localhost:3000"}, {"origin": "https://127.0.0.1"}, {"origin": ""},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
]  # fmt: skip
OWN = [{}, {"host": "localhost:8700"}, {"host": "LOCALHOST"}, {"host": "127.8.9.1:1"}, {"host": "[::1]:8700"}, {"sec-fetch-site": "none"},
       {"host": "localhost:8700", "origin": "http://localhost:8700", "sec-fetch-site": "same-origin"}]  # fmt: skip
PATHS = [("GET", "/2020-11-20/projects"), ("DELETE", "/bkt"), ("GET", "/bkt/k"), ("PUT", "/bkt/other"), ("GET", "/-/metrics"), ("OPTIONS", "/bkt")]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_does_nothing_to_an_anonymous_server(gateway: Gateway, headers: dict[str, str]) -> None:
    asyncio.run(ask(gateway, "PUT", "/bkt", {}, b""))
    asyncio.run(ask(gateway, "PUT", "/bkt/k", {}, b"picture"))
    for method, path in PATHS:
        status, _, body = asyncio.run(ask(gateway, method, path, headers, b""))
        assert (status, b"AccessDenied" in body, b"picture" in body) == (403, True, False)
    assert asyncio.run(ask(gateway, "POST", "/", {"x-amz-target": "RekognitionService.DescribeProjects", **headers}, b"{}"))[0] == 400
    assert asyncio.run(ask(gateway, "GET", "/bkt/k", {}, b""))[2] == b"picture"
    assert asyncio.run(ask(gateway, "GET", "/bkt/other", {}, b""))[0] == 404


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_a_program_of_this_machine_may_call_an_anonymous_server(gateway: Gateway, headers: dict[str, str]) -> None:
    assert asyncio.run(ask(gateway, "GET", "/2020-11-20/projects", headers, b""))[0] == 200


def test_signed_servers_answer_to_any_name(gateway: Gateway) -> None:
    services = gateway._services
    gateway._services = replace(services, settings=msgspec.structs.replace(services.settings, anonymous=False))
    status, _, body = asyncio.run(ask(gateway, "GET", "/2020-11-20/projects", {"host": "linewatch.plant.local"}, b""))
    assert (status, json.loads(body)["__type"]) == (403, "MissingAuthenticationTokenException")


def test_strangers_make_no_metrics(gateway: Gateway) -> None:
    def lines() -> int:
        return len(asyncio.run(ask(gateway, "GET", "/-/metrics", {}, b""))[2].splitlines())

    asyncio.run(ask(gateway, "GET", "/-/nothing", {}, b""))
    lines()
    before = lines()
    for n in range(20):
        assert asyncio.run(ask(gateway, "GET", f"/-/{n}", {}, b""))[0] == 404
    assert lines() == before
