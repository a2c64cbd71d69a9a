"""Tags of models."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import NotFoundError, QuotaError, ValidationError
from linewatch.control_plane.identifiers import parse_model_arn
from linewatch.control_plane.operations.lookup import count, find_model
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.schema import Row, tags
from linewatch.control_plane.wire.requests import Params


def _find(call: Call, connection: Connection, arn: str) -> Row:
    scope, project, version = parse_model_arn(arn)
    if scope != call.scope:
        raise NotFoundError(f"The resource {arn} was not found in {call.scope.region}", arn, "MODEL")
    return find_model(connection, scope, project, str(version))


def put_tags(connection: Connection, model_id: int, wanted: list[dict[str, Any]], quota: int, resource: str) -> None:
    """Add tags, or change their values.

    Args:
        connection: to write with.
        model_id: of the model's row.
        wanted: tags as {"Key": ..., "Value": ...}.
        quota: most tags of a model.
        resource: ARN of the model, for errors.

    Raises:
        ValidationError: one key is given twice.
        QuotaError: the model would have more tags than `quota`.
    """
    keys = [tag["Key"] for tag in wanted]
    if len(set(keys)) != len(keys):
        raise ValidationError("a tag key is given twice; give each key once")
    connection.execute(sa.delete(tags).where(tags.c.model_id == model_id, tags.c.key.in_(keys)))
    for tag in wanted:
        connection.execute(sa.insert(tags).values(model_id=model_id, key=tag["Key"], value=tag["Value"]))
    total = count(connection, tags, tags.c.model_id == model_id)
    if total > quota:
        raise QuotaError(f"the model would have {total} tags; quota_tags allows {quota}", "quota_tags", resource, "MODEL")


def tag_resource(call: Call, connection: Connection, params: Params) -> OperationResult:
    """TagResource."""
    row = _find(call, connection, params["ResourceArn"])
    put_tags(connection, row.id, params["Tags"], call.services.settings.quota_tags, params["ResourceArn"])
    return {}


def untag_resource(call: Call, connection: Connection, params: Params) -> OperationResult:
    """UntagResource; keys that are not there are ignored."""
    row = _find(call, connection, params["ResourceArn"])
    connection.execute(sa.delete(tags).where(tags.c.model_id == row.id, tags.c.key.in_(params["TagKeys"])))
    return {}


def list_tags_for_resource(call: Call, connection: Connection, params: Params) -> OperationResult:
    """ListTagsForResource."""
    row = _find(call, connection, params["ResourceArn"])
    query = sa.select(tags.c.key, tags.c.value).where(tags.c.model_id == row.id).order_by(tags.c.key)
    return {"Tags": [{"Key": r.key, "Value": r.value} for r in connection.execute(query)]}
