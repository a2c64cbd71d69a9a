"""The protocol: routing, parsing, constraints, answers, page tokens."""

import base64
import gzip
import json
import random
import re
from collections import Counter
from contextlib import suppress

import msgspec
import pytest
from botocore.model import ServiceModel
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.control_plane.errors import ApiError, ConflictError, SerializationError, ThrottlingError, ValidationError
from linewatch.control_plane.operations import HANDLERS
from linewatch.control_plane.wire.answers import render, render_error
from linewatch.control_plane.wire.page_tokens import PageTokens
from linewatch.control_plane.wire.requests import Source, check, parse_json, parse_rest
from linewatch.control_plane.wire.service_model import models_folder, operations, route
from tests.conftest import old_client
from tests.shapes import breaches, replaced, valid

LOOKOUT = sorted(operations("lookoutvision"))
REKOGNITION = sorted(operations("rekognition"))


def without_documentation(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_documentation(v) for k, v in value.items() if k != "documentation" or not isinstance(v, str)}
    if isinstance(value, list):
        return [without_documentation(v) for v in value]
    return value


def test_our_model_is_that_of_the_last_botocore_that_had_it() -> None:
    folder = next(old_client().parents[1].glob("lib/python3*/site-packages/botocore/data/lookoutvision/2020-11-20"))
    ours = models_folder() / "lookoutvision" / "2020-11-20"
    theirs = json.loads(gzip.decompress((folder / "service-2.json.gz").read_bytes()))
    mine = json.loads((ours / "service-2.json").read_text())
    assert set(mine["metadata"]["protocols"]) == set(theirs["metadata"]["protocols"])
    assert without_documentation(mine["metadata"]) == without_documentation(theirs["metadata"])
    assert without_documentation(mine["shapes"]) == without_documentation(theirs["shapes"])
    for name, operation in without_documentation(theirs["operations"]).items():  # type: ignore[attr-defined]
        found = without_documentation(mine["operations"][name])
        assert sorted(e["shape"] for e in found.pop("errors")) == sorted(e["shape"] for e in operation.pop("errors"))  # type: ignore[attr-defined]
        assert found == operation
    assert json.loads((ours / "paginators-1.json").read_text()) == json.loads((folder / "paginators-1.json").read_text())


def test_our_model_of_rekognition_is_a_part_of_botocores() -> None:
    import botocore.loaders

    theirs = botocore.loaders.Loader().load_service_model("rekognition", "service-2")
    mine = ServiceModel(msgspec.json.decode((models_folder().parent / "control_plane/wire/rekognition.json").read_bytes()))
    whole = ServiceModel(theirs)
    for name in mine.operation_names:
        ours, full = mine.operation_model(name), whole.operation_model(name)
        assert set(ours.input_shape.members) == set(full.input_shape.members)
        assert set(ours.output_shape.members) <= set(full.output_shape.members)
        assert {e.name for e in ours.error_shapes} == {e.name for e in full.error_shapes}


@pytest.mark.parametrize("service", ["lookoutvision", "rekognition"])
def test_every_operation_has_a_handler(service: str) -> None:
    assert set(operations(service)) == set(HANDLERS[service]) | ({"DetectAnomalies"} if service == "lookoutvision" else set())


def test_operations_have_their_documentation() -> None:
    for operation in operations("lookoutvision").values():
        assert len(operation.model.documentation) > 20


def test_an_arn_is_one_segment() -> None:
    arn = "arn:aws:lookoutvision:us-east-1:123456789012:model/w1/1"
    for path in (f"/2020-11-20/tags/{arn.replace(':', '%3A').replace('/', '%2F')}", f"/2020-11-20/tags/{arn}"):
        found = route("GET", path)
        assert found is not None
        assert found[0].name == "ListTagsForResource"
        assert found[1] == {"resourceArn": arn}


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/2020-11-20/"), ("PUT", "/2020-11-20/projects"), ("GET", "/2020-11-20/projects/a/b"),
    ("GET", "/2020-11-20/projects//datasets/train"), ("GET", "/2020-11-20/projects/a%2Fdatasets/train"),
])  # fmt: skip
def test_unknown_paths_are_no_operation(method: str, path: str) -> None:
    assert route(method, path) is None


def source(body: bytes = b"", query: list[tuple[str, str]] | None = None, **labels: str) -> Source:
    return Source(labels, query or [], {}, body)


def test_a_query_is_typed() -> None:
    operation = operations("lookoutvision")["ListDatasetEntries"]
    query = [("labeled", "true"), ("maxResults", "7"), ("createdBefore", "2026-01-02T03:04:05.678000Z"), ("unknown", "x")]
    found = parse_rest(operation, source(query=query, projectName="p", datasetType="train"))
    assert found == {
        "ProjectName": "p", "DatasetType": "train", "Labeled": True, "MaxResults": 7, "BeforeCreationDate": 1767323045.678,
    }  # fmt: skip


@pytest.mark.parametrize("query", [("labeled", "yes"), ("maxResults", "many"), ("createdBefore", "yesterday"),
                                   ("createdBefore", "1e300"), ("createdBefore", "nan")])  # fmt: skip
def test_a_query_of_the_wrong_type_is_refused(query: tuple[str, str]) -> None:
    with pytest.raises(SerializationError):
        parse_rest(operations("lookoutvision")["ListDatasetEntries"],
                   source(query=[query], projectName="p", datasetType="train"))  # fmt: skip


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"ProjectName": 5}', b'{"ProjectName": {"a": 1}}', b"[" * 100_000])
def test_a_body_that_is_not_the_protocols_is_refused(body: bytes) -> None:
    with pytest.raises(SerializationError):
        parse_rest(operations("lookoutvision")["CreateProject"], source(body))


def test_null_and_unknown_members_are_absent() -> None:
    found = parse_rest(operations("lookoutvision")["CreateProject"], source(b'{"ProjectName": "a", "ClientToken": null, "New": 1}'))
    assert found == {"ProjectName": "a"}


def test_a_pattern_is_matched_to_the_very_end() -> None:
    with pytest.raises(ValidationError):
        parse_rest(operations("lookoutvision")["CreateProject"], source(b'{"ProjectName": "a\\n"}'))


def test_changes_are_base64() -> None:
    operation = operations("lookoutvision")["UpdateDatasetEntries"]
    labels = {"projectName": "p", "datasetType": "train"}
    encoded = base64.b64encode(b"{}").decode()
    assert parse_rest(operation, source(json.dumps({"Changes": encoded}).encode(), **labels))["Changes"] == b"{}"
    with pytest.raises(SerializationError, match="base64"):
        parse_rest(operation, source(b'{"Changes": "***"}', **labels))


@pytest.mark.parametrize("name", LOOKOUT)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_valid_requests_pass_and_each_breach_is_named(name: str, data: st.DataObject) -> None:
    shape = operations("lookoutvision")[name].input_shape
    request = data.draw(valid(shape))
    check(shape, request)
    for member in shape.required_members:
        with pytest.raises(ValidationError, match="must not be null"):
            check(shape, {k: v for k, v in request.items() if k != member})
    for path, bad, why in breaches(shape, request):
        with pytest.raises(ValidationError) as caught:
            check(shape, replaced(request, path, bad))
        last = [p for p in path if isinstance(p, str)][-1]
        assert (last[0].lower() + last[1:]) in str(caught.value), why


@pytest.mark.parametrize("name", REKOGNITION)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_valid_json_requests_pass(name: str, data: st.DataObject) -> None:
    operation = operations("rekognition")[name]
    request = data.draw(valid(operation.input_shape))
    assert parse_json(operation, json.dumps(request).encode()) == request


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    for name in ("CreateDataset", "CreateModel", "StartModelPackagingJob"):
        with suppress(SerializationError, ValidationError):
            parse_rest(operations("lookoutvision")[name], source(body, projectName="p"))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", LOOKOUT)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_json_in_any_member_is_parsed_or_refused(name: str, data: st.DataObject) -> None:
    operation = operations("lookoutvision")[name]
    members = operation.input_shape.members
    body = {n: data.draw(JSON_VALUES) for n in members}
    labels = {m.serialization.get("name", n): "p" for n, m in members.items() if m.serialization.get("location") == "uri"}
    with suppress(SerializationError, ValidationError):
        parse_rest(operation, Source(labels, [], {}, json.dumps(body).encode()))


def test_answers_are_serialised_by_the_model() -> None:
    result = {"DetectAnomalyResult": {"Source": {"Type": "direct"}, "IsAnomalous": True, "Confidence": 0.5, "Anomalies": None,
                                      "AnomalyMask": b"\x89PNG"}}  # fmt: skip
    status, headers, body = render(operations("lookoutvision")["DetectAnomalies"], result)
    assert status == 200
    assert ("content-type", "application/json") in headers
    assert json.loads(body) == {"DetectAnomalyResult": {
        "Source": {"Type": "direct"}, "IsAnomalous": True, "Confidence": 0.5, "AnomalyMask": base64.b64encode(b"\x89PNG").decode(),
    }}  # fmt: skip


def test_times_are_numbers_in_bodies() -> None:
    _, _, body = render(operations("lookoutvision")["CreateProject"], {"ProjectMetadata": {"CreationTimestamp": 1767323045.678}})
    assert json.loads(body) == {"ProjectMetadata": {"CreationTimestamp": 1767323045.678}}


def test_a_member_that_the_model_lacks_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        render(operations("lookoutvision")["CreateProject"], {"Project": {}})


def test_errors_stand_in_header_and_body() -> None:
    status, headers, body = render_error("lookoutvision", ConflictError("taken", "p", "PROJECT"))
    assert status == 409
    assert ("x-amzn-errortype", "ConflictException") in headers
    assert json.loads(body) == {"__type": "ConflictException", "Message": "taken", "ResourceId": "p", "ResourceType": "PROJECT"}


def test_retry_after_is_a_header() -> None:
    status, headers, body = render_error("lookoutvision", ThrottlingError("busy", 3), chance=lambda: 0.0)
    assert (status, dict(headers)["retry-after"]) == (429, "3")
    assert "RetryAfterSeconds" not in json.loads(body)


def test_those_who_are_throttled_together_do_not_come_back_together() -> None:
    chance = random.Random(1).random
    told = [int(dict(render_error("lookoutvision", ThrottlingError("busy", 2), chance)[1])["retry-after"]) for _ in range(400)]
    assert set(told) == set(range(2, 10))
    assert max(Counter(told).values()) < 100


@pytest.mark.parametrize(("error", "code", "status"), [
    (ValidationError("x"), "InvalidParameterException", 400),
    (ConflictError("x", "a", "DATASET"), "ResourceNotReadyException", 400),
    (ApiError("x"), "InternalServerError", 500),
    (ThrottlingError("x"), "ThrottlingException", 400),
])  # fmt: skip
def test_rekognition_has_names_of_its_own(error: ApiError, code: str, status: int) -> None:
    found, headers, body = render_error("rekognition", error)
    assert (found, json.loads(body)["__type"]) == (status, code)
    assert ("content-type", "application/x-amz-json-1.1") in headers


@given(st.one_of(st.integers(), st.text(max_size=255)), st.binary(min_size=32, max_size=32))
def test_page_tokens_come_back_and_refuse_tampering(last: object, key: bytes) -> None:
    tokens = PageTokens(key)
    token = tokens.seal(["a", 1], last)
    assert re.fullmatch(r"[a-zA-Z0-9/+=]{0,2048}", token)
    assert PageTokens(key).open(["a", 1], token) == last
    assert tokens.open(["a", 1], None) is None
    raw = bytearray(base64.b64decode(token))
    for place in (0, len(raw) - 1):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(ValidationError):
            tokens.open(["a", 1], base64.b64encode(changed).decode())
    for listing, text in ((["a", 2], token), (["a", 1], "x"), (["a", 1], token[:-4])):
        with pytest.raises(ValidationError):
            tokens.open(listing, text)
