"""How calls are made: signatures, client tokens, bodies, protocols, and what every answer has."""

import http.client
import json
import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import msgspec
import pytest
import sqlalchemy as sa
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.policy import ROLES, Policy
from linewatch.control_plane.access.registry import Registry
from linewatch.control_plane.store.schema import client_tokens
from tests.contract.control_plane.cases import refused, store_model
from tests.contract.control_plane.conftest import Bench, manifest, policy
from tests.server import ACCOUNT, REGION, Server, wait_for


def send(server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """A request as it is given: status, headers, body."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.headers, data


def signed(bench: Bench, method: str, path: str, body: bytes = b"", service: str = "lookoutvision", **headers: str) -> dict[str, str]:
    """Headers of a signed request."""
    credential = bench.server.credential()
    request = AWSRequest(method, bench.server.url + path, {k.replace("_", "-"): v for k, v in headers.items()}, body)
    keys = Credentials(credential["aws_access_key_id"], credential["aws_secret_access_key"])
    SigV4Auth(keys, service, REGION).add_auth(request)
    return dict(request.headers)


def error(body: bytes) -> str:
    return str(msgspec.json.decode(body)["__type"])


# --- who may call


def test_an_unsigned_call_is_told_so(server: Server) -> None:
    status, headers, body = send(server, "GET", "/2020-11-20/projects")
    assert (status, headers["x-amzn-errortype"], error(body)) == (403, *["MissingAuthenticationTokenException"] * 2)
    assert headers["content-type"] == "application/json"
    assert headers["x-amzn-requestid"]


def test_another_secret(bench: Bench) -> None:
    key = bench.server.credential() | {"aws_secret_access_key": "x" * 40}
    refused(bench.server.client(key).list_projects, "InvalidSignatureException", 403)


def test_an_unknown_key(bench: Bench) -> None:
    key = {"aws_access_key_id": "AKIAUNKNOWN", "aws_secret_access_key": "x" * 40}
    refused(bench.server.client(key).list_projects, "UnrecognizedClientException", 403)


def test_a_changed_body(bench: Bench) -> None:
    headers = signed(bench, "POST", "/2020-11-20/projects", b'{"ProjectName":"a"}')
    status, _, body = send(bench.server, "POST", "/2020-11-20/projects", b'{"ProjectName":"b"}', headers)
    assert (status, error(body)) == (403, "InvalidSignatureException")
    refused(lambda: bench.api.describe_project(ProjectName="b"), "ResourceNotFoundException", 404)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off(bench: Bench, minutes: int) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    # boto3 signs with awscrt where that is installed, as it is with the agent's extra, and by itself elsewhere.
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)), mock.patch(
        "botocore.crt.auth.get_current_datetime", return_value=moment
    ):
        refused(bench.server.client(bench.server.credential()).list_projects, "InvalidSignatureException", 403)


def test_a_temporary_credential(bench: Bench) -> None:
    key = bench.server.credential(hours=1)
    assert key["aws_access_key_id"].startswith("ASIA")
    bench.server.client(key).list_projects()
    without = {k: v for k, v in key.items() if k != "aws_session_token"}
    for wrong in (without, key | {"aws_session_token": "x"}):
        refused(bench.server.client(wrong).list_projects, "UnrecognizedClientException", 403)
    short = bench.server.credential(hours=0.0002)
    time.sleep(0.8)
    refused(bench.server.client(short).list_projects, "UnrecognizedClientException", 403)


def test_a_policy_on_tags(bench: Bench) -> None:
    bench.make("train")
    store_model(bench, 1)
    store_model(bench, 2)
    bench.api.tag_resource(ResourceArn=bench.arn("1"), Tags=[{"Key": "line", "Value": "7"}])
    client = bench.allowed("lookoutvision:DescribeModel", Condition={"StringEquals": {"aws:ResourceTag/line": "7"}})
    client.describe_model(ProjectName=bench.project, ModelVersion="1")
    for version in ("2", "latest"):
        refused(lambda version=version: client.describe_model(ProjectName=bench.project, ModelVersion=version),
                "AccessDeniedException", 403)  # fmt: skip


def test_reading_a_manifest_needs_the_right_to_read_it(bench: Bench) -> None:
    bench.make()
    client = bench.allowed("lookoutvision:*")
    source = {"GroundTruthManifest": {"S3Object": {"Bucket": "b-b", "Key": "k"}}}
    found = refused(lambda: client.create_dataset(ProjectName=bench.project, DatasetType="train", DatasetSource=source),
                    "AccessDeniedException", 403)  # fmt: skip
    assert "s3:GetObject" in found["Error"]["Message"]


def test_regions_and_accounts_do_not_see_each_other(bench: Bench) -> None:
    bench.make()
    other = bench.server.client(bench.server.credential(), region="ap-northeast-1")
    refused(lambda: other.describe_project(ProjectName=bench.project), "ResourceNotFoundException", 404)
    other.create_project(ProjectName=bench.project)
    found = other.describe_project(ProjectName=bench.project)["ProjectDescription"]["ProjectArn"]
    assert found == f"arn:aws:lookoutvision:ap-northeast-1:{ACCOUNT}:project/{bench.project}"
    store = bench.server.store()
    made = Registry(store, MasterKey.open(bench.server.data)).create("999988887777", "other", ROLES["full"])
    store.close()
    other = bench.server.client({f"aws_{k}": v for k, v in made.items()})
    assert other.list_projects()["Projects"] == []
    refused(lambda: other.describe_project(ProjectName=bench.project), "ResourceNotFoundException", 404)


def test_a_presigned_call(bench: Bench) -> None:
    bench.s3.create_bucket(Bucket=f"b-{bench.project}", CreateBucketConfiguration={"LocationConstraint": REGION})
    bench.s3.put_object(Bucket=f"b-{bench.project}", Key="a b+c.txt", Body=b"hello")
    where = {"Bucket": f"b-{bench.project}", "Key": "a b+c.txt"}
    url = urlsplit(bench.s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60))
    assert send(bench.server, "GET", f"{url.path}?{url.query}", headers={"Host": url.netloc})[2] == b"hello"
    status, _, body = send(bench.server, "GET", f"{url.path}x?{url.query}", headers={"Host": url.netloc})
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True)
    url = urlsplit(bench.s3.generate_presigned_url("get_object", Params=where, ExpiresIn=1))
    time.sleep(2.1)
    status, _, body = send(bench.server, "GET", f"{url.path}?{url.query}", headers={"Host": url.netloc})
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


def test_the_audit_log_has_every_call_and_no_secret(bench: Bench) -> None:
    key = bench.server.credential()
    client = bench.server.client(key)
    answer = client.create_project(ProjectName=bench.project, ClientToken="token-1")
    refused(lambda: client.describe_model(ProjectName=bench.project, ModelVersion="1"), "ResourceNotFoundException", 404)
    lines = (bench.server.data / "audit.log").read_text().splitlines()
    mine = [json.loads(line) for line in lines if key["aws_access_key_id"] in line]
    assert [(x["eventName"], x["readOnly"], x["status"], x.get("errorCode")) for x in mine] == [
        ("CreateProject", False, 200, None), ("DescribeModel", True, 404, "ResourceNotFoundException"),
    ]  # fmt: skip
    assert mine[0]["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert mine[0]["requestParameters"] == {"projectName": bench.project, "clientToken": "token-1"}
    assert mine[0]["sourceIPAddress"] == "127.0.0.1"
    assert "Boto3" in mine[0]["userAgent"]
    text = "\n".join(lines)
    assert key["aws_secret_access_key"] not in text
    assert "Signature=" not in text


# --- client tokens


def test_a_token_answers_as_the_first_time(bench: Bench) -> None:
    first = bench.api.create_project(ProjectName=bench.project, ClientToken="t-1")["ProjectMetadata"]
    assert bench.api.create_project(ProjectName=bench.project, ClientToken="t-1")["ProjectMetadata"] == first
    found = refused(lambda: bench.api.create_project(ProjectName=bench.project + "x", ClientToken="t-1"), "ConflictException", 409)
    assert "other parameters" in found["Error"]["Message"]
    refused(lambda: bench.api.create_project(ProjectName=bench.project, ClientToken="t-2"), "ConflictException", 409)


def test_a_call_that_failed_may_be_made_again_with_its_token(bench: Bench) -> None:
    token = secrets.token_hex(8)
    refused(lambda: bench.api.create_dataset(ProjectName=bench.project, DatasetType="train", ClientToken=token),
            "ResourceNotFoundException", 404)  # fmt: skip
    bench.make()
    bench.api.create_dataset(ProjectName=bench.project, DatasetType="train", ClientToken=token)


def test_a_token_counts_for_its_operation_and_region_only(bench: Bench) -> None:
    token = secrets.token_hex(8)
    bench.api.create_project(ProjectName=bench.project, ClientToken=token)
    bench.api.create_dataset(ProjectName=bench.project, DatasetType="train", ClientToken=token)
    bench.server.client(bench.server.credential(), region="us-west-2").create_project(ProjectName=bench.project, ClientToken=token)


def test_a_token_is_good_for_eight_hours(bench: Bench) -> None:
    token = secrets.token_hex(8)
    bench.api.create_project(ProjectName=bench.project, ClientToken=token)
    other = bench.project + "-other"

    def let_pass(seconds: float) -> None:
        store = bench.server.store()
        with store.write() as c:
            c.execute(sa.update(client_tokens).filter_by(token=token).values(created=client_tokens.c.created - seconds))
        store.close()

    let_pass(8 * 3600 - 600)
    refused(lambda: bench.api.create_project(ProjectName=other, ClientToken=token), "ConflictException", 409)
    let_pass(600)
    bench.api.create_project(ProjectName=other, ClientToken=token)


def test_many_at_once_with_one_token_make_one(bench: Bench) -> None:
    bench.make("train")
    token, answers = secrets.token_hex(8), []

    def call() -> None:
        client = bench.server.client(bench.server.credential())
        answers.append(client.update_dataset_entries(
            ProjectName=bench.project, DatasetType="train", Changes=manifest(3), ClientToken=token)["Status"])  # fmt: skip

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["UPDATE_IN_PROGRESS"] * 8
    assert bench.settled()["ImageStats"]["Total"] == 3


def test_many_at_once_make_one_project(bench: Bench) -> None:
    outcomes: list[str] = []

    def call() -> None:
        try:
            bench.server.client(bench.server.credential()).create_project(ProjectName=bench.project)
            outcomes.append("made")
        except ClientError as found:
            outcomes.append(found.response["Error"]["Code"])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ConflictException"] * 7 + ["made"]


# --- bodies and protocols


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/2020-11-20/nothing"), ("PUT", "/2020-11-20/projects"), ("GET", "/2020-11-20/"), ("DELETE", "/2020-11-20/projects/a/b/c"),
])  # fmt: skip
def test_unknown_paths_answer_as_aws_does(bench: Bench, method: str, path: str) -> None:
    status, headers, body = send(bench.server, method, path, headers=signed(bench, method, path))
    assert (status, headers["x-amzn-errortype"], error(body)) == (404, *["UnknownOperationException"] * 2)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"ProjectName": 7}', b"\xff"])
def test_a_body_of_the_wrong_kind(bench: Bench, body: bytes) -> None:
    status, headers, answer = send(bench.server, "POST", "/2020-11-20/projects", body, signed(bench, "POST", "/2020-11-20/projects", body))
    assert (status, error(answer)) == (400, "SerializationException")
    assert headers["content-type"] == "application/json"


def test_a_body_in_chunks_and_another_content_type(bench: Bench) -> None:
    body = json.dumps({"ProjectName": bench.project}).encode()
    path = "/2020-11-20/projects"
    headers = signed(bench, "POST", path, body, Content_Type="application/x-amz-json-1.1; charset=utf-8")
    connection = http.client.HTTPConnection(urlsplit(bench.server.url).netloc, timeout=20)
    connection.request("POST", path, iter([body[:5], body[5:]]), headers, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["ProjectMetadata"]["ProjectName"]) == (200, bench.project)
    connection.close()


def test_expect_continue(bench: Bench) -> None:
    import socket

    body = json.dumps({"ProjectName": bench.project}).encode()
    headers = signed(bench, "POST", "/2020-11-20/projects", body)
    address = urlsplit(bench.server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        head = {"Host": address.netloc, "Content-Length": str(len(body)), "Expect": "100-continue", "Connection": "close", **headers}
        text = "POST /2020-11-20/projects HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in head.items()) + "\r\n"
        connection.sendall(text.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert b"HTTP/1.1 200" in connection.recv(4000)


def test_the_largest_update_and_one_that_is_larger(bench: Bench) -> None:
    bench.make("train")
    most = 10 * 1024 * 1024

    def line(number: int, length: int) -> bytes:
        start = b'{"source-ref":"s3://pictures/%06d","x":"' % number
        return start + b"y" * (length - len(start) - 2) + b'"}'

    whole, rest = divmod(most, 8192 + 1)
    body = b"\n".join([*(line(i, 8192) for i in range(whole)), line(whole, rest)])
    assert len(body) == most
    bench.api.update_dataset_entries(ProjectName=bench.project, DatasetType="train", Changes=body)
    done = bench.settled()
    assert (done["Status"], done["ImageStats"]["Total"]) == ("UPDATE_COMPLETE", whole + 1)
    client = bench.server.client(bench.server.credential(), parameter_validation=False)
    refused(lambda: client.update_dataset_entries(ProjectName=bench.project, DatasetType="train", Changes=b"x" * (most + 1)),
            "ValidationException", 400)  # fmt: skip
    refused(lambda: client.update_dataset_entries(ProjectName=bench.project, DatasetType="train", Changes=b"x" * (12 << 20)),
            "RequestEntityTooLargeException", 413)  # fmt: skip


def test_headers_have_a_bound(server: Server) -> None:
    try:
        status = send(server, "GET", "/2020-11-20/projects", headers={"X-Long": "x" * 1_000_000})[0]
    except (ConnectionError, http.client.HTTPException):
        return
    assert status == 400


def test_health_and_metrics(bench: Bench) -> None:
    bench.api.list_projects()
    assert send(bench.server, "GET", "/-/health")[2] == b'{"status":"ok"}'
    text = send(bench.server, "GET", "/-/metrics")[2].decode()
    assert 'linewatch_calls_total{code="",operation="ListProjects"}' in text
    assert send(bench.server, "GET", "/-/nothing")[0] == 404


# --- Rekognition


def test_distribute(bench: Bench) -> None:
    bench.make("train", "test")
    bench.update("train", 100)
    rekognition = bench.server.client(bench.server.credential(), "rekognition", parameter_validation=False)
    found = rekognition.describe_projects(ProjectNames=[bench.project])["ProjectDescriptions"]
    assert [(d["DatasetType"], d["Status"]) for d in found[0]["Datasets"]] == [("TRAIN", "UPDATE_COMPLETE"), ("TEST", "CREATE_COMPLETE")]
    arns = [d["DatasetArn"] for d in found[0]["Datasets"]]
    before = bench.settled("train")["ImageStats"]
    assert "Datasets" not in rekognition.distribute_dataset_entries(Datasets=[{"Arn": a} for a in reversed(arns)])

    def statuses() -> list[str]:
        return [rekognition.describe_dataset(DatasetArn=a)["DatasetDescription"]["Status"] for a in arns]

    wait_for(statuses, lambda s: s == ["UPDATE_COMPLETE"] * 2)
    train, test = (bench.settled(kind)["ImageStats"] for kind in ("train", "test"))
    assert {k: train[k] + test[k] for k in before} == before
    assert test == {"Total": 20, "Labeled": 17, "Normal": 11, "Anomaly": 6}
    stats = rekognition.describe_dataset(DatasetArn=arns[1])["DatasetDescription"]["DatasetStats"]
    assert stats == {"LabeledEntries": 17, "TotalEntries": 20, "TotalLabels": 2, "ErrorEntries": 0}
    for datasets, code in (
        (arns, "InvalidParameterException"), ([arns[0], arns[0]], "InvalidParameterException"), ([arns[0]], "InvalidParameterException"),
        ([arns[0], arns[1][:-1] + "x"], "InvalidParameterException"), ([arns[0], arns[1] + "1"], "ResourceNotFoundException"),
    ):  # fmt: skip
        refused(lambda datasets=datasets: rekognition.distribute_dataset_entries(Datasets=[{"Arn": a} for a in datasets]), code, 400)


def test_distribute_needs_settled_datasets_of_one_project(bench: Bench) -> None:
    from linewatch.control_plane.store.schema import datasets

    rekognition = bench.server.client(bench.server.credential(), "rekognition")
    bench.make("train", "test")
    bench.update("train", 10)

    def arns(project: str) -> list[str]:
        found = rekognition.describe_projects(ProjectNames=[project])["ProjectDescriptions"][0]
        return [d["DatasetArn"] for d in found["Datasets"]]

    def told(arn: str) -> tuple[str, str]:
        found = rekognition.describe_dataset(DatasetArn=arn)["DatasetDescription"]
        return found["Status"], found["StatusMessageCode"]

    mine = arns(bench.project)
    other = bench.project + "-other"
    bench.api.create_project(ProjectName=other)
    bench.api.create_dataset(ProjectName=other, DatasetType="test")
    pair = [{"Arn": mine[0]}, {"Arn": arns(other)[0]}]
    refused(lambda: rekognition.distribute_dataset_entries(Datasets=pair), "InvalidParameterException", 400)
    store = bench.server.store()
    created = int(mine[1].rpartition("/")[2])
    with store.write() as c:
        rows = c.execute(sa.select(datasets.c.id, datasets.c.created)).all()
        busy = next(r.id for r in rows if int(r.created * 1000) == created)
        c.execute(sa.update(datasets).where(datasets.c.id == busy).values(status="UPDATE_IN_PROGRESS"))
    pair = [{"Arn": a} for a in mine]
    refused(lambda: rekognition.distribute_dataset_entries(Datasets=pair), "ResourceNotReadyException", 400)
    assert told(mine[1]) == ("UPDATE_IN_PROGRESS", "SUCCESS")
    with store.write() as c:
        c.execute(sa.update(datasets).where(datasets.c.id == busy).values(status="UPDATE_FAILED_ROLLBACK_COMPLETE"))
    store.close()
    assert told(mine[1]) == ("UPDATE_FAILED", "CLIENT_ERROR")
    assert bench.settled("train")["ImageStats"]["Total"] == 10


@pytest.mark.parametrize("lines", [0, 4])
def test_too_few_entries_are_not_distributed(bench: Bench, lines: int) -> None:
    rekognition = bench.server.client(bench.server.credential(), "rekognition")
    bench.make("train", "test")
    if lines:
        bench.update("train", lines)
    found = rekognition.describe_projects(ProjectNames=[bench.project])["ProjectDescriptions"][0]["Datasets"]
    pair = [{"Arn": d["DatasetArn"]} for d in found]
    refused(lambda: rekognition.distribute_dataset_entries(Datasets=pair), "InvalidParameterException", 400)
    assert bench.settled("test")["Status"] == "CREATE_COMPLETE"
    assert bench.settled("train")["ImageStats"]["Total"] == lines


def test_rekognition_asks_for_permission_on_both_datasets(bench: Bench) -> None:
    bench.make("train", "test")
    rekognition = bench.server.client(bench.server.credential(), "rekognition")
    found = rekognition.describe_projects(ProjectNames=[bench.project])["ProjectDescriptions"][0]["Datasets"]
    allowed = msgspec.convert({"Statement": [{"Effect": "Allow", "Action": "rekognition:*", "Resource": "*/dataset/train/*"}]}, Policy)
    limited = bench.server.client(bench.server.credential(allowed), "rekognition")
    pair = [{"Arn": d["DatasetArn"]} for d in found]
    refused(lambda: limited.distribute_dataset_entries(Datasets=pair), "AccessDeniedException", 400)
    assert policy()


def test_rekognition_has_no_other_calls(bench: Bench) -> None:
    rekognition = bench.server.client(bench.server.credential(), "rekognition")
    refused(rekognition.list_collections, "UnknownOperationException", 400)
    pages = rekognition.describe_projects(MaxResults=1)
    bad = "x" + pages.get("NextToken", "AAAA")
    refused(lambda: rekognition.describe_projects(NextToken=bad), "InvalidPaginationTokenException", 400)
