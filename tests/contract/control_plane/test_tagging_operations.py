"""Operations on tags."""

import pytest

from tests.contract.control_plane.cases import Case, case, cases_of, quota, refused, store_model
from tests.contract.control_plane.conftest import Bench
from tests.server import ACCOUNT, REGION


@case("TagResource")
@case("UntagResource")
@case("ListTagsForResource")
def tags(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": "Straße 1", "Value": ""}, {"Key": "b", "Value": "1"}])
    b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": "b", "Value": "2"}])
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == [{"Key": "Straße 1", "Value": ""}, {"Key": "b", "Value": "2"}]
    b.api.untag_resource(ResourceArn=b.arn(), TagKeys=["Straße 1", "never"])
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == [{"Key": "b", "Value": "2"}]


@case("TagResource", "ServiceQuotaExceededException")
def too_many_tags(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    quota(lambda: b.api.tag_resource(ResourceArn=b.arn(), Tags=[{"Key": str(i), "Value": ""} for i in range(51)]), "quota_tags")
    assert b.api.list_tags_for_resource(ResourceArn=b.arn())["Tags"] == []


@case("TagResource", "ValidationException")
@case("UntagResource", "ValidationException")
@case("ListTagsForResource", "ValidationException")
def tags_of_what_is_no_model(b: Bench) -> None:
    arn = f"arn:aws:lookoutvision:{REGION}:{ACCOUNT}:project/x"
    refused(lambda: b.api.tag_resource(ResourceArn=arn, Tags=[{"Key": "a", "Value": ""}]), "ValidationException", 400)
    refused(lambda: b.api.untag_resource(ResourceArn=arn, TagKeys=["a"]), "ValidationException", 400)
    refused(lambda: b.api.list_tags_for_resource(ResourceArn=arn), "ValidationException", 400)


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
