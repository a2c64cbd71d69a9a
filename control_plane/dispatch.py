"""From checked parameters to a result: authorisation, client tokens, and the operation, in one transaction."""

import hashlib
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from linewatch.control_plane.access.policy import Policy
from linewatch.control_plane.errors import ConflictError, NotFoundError, ResourceType
from linewatch.control_plane.identifiers import Scope, parse_model_arn
from linewatch.control_plane.jobs.runner import TOKEN_LIFE_S
from linewatch.control_plane.operations import HANDLERS
from linewatch.control_plane.operations.detection import detect_anomalies
from linewatch.control_plane.operations.lookup import find_model
from linewatch.control_plane.operations.models import model_tags
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import client_tokens
from linewatch.control_plane.wire.requests import Params
from linewatch.control_plane.wire.service_model import Operation

_ON_MODELS = {"DescribeModel", "DeleteModel", "StartModel", "StopModel", "DetectAnomalies", "StartModelPackagingJob"}


def invoke(call: Call, operation: Operation, params: Params) -> OperationResult:
    """Run an operation for a caller.

    Raises:
        ApiError: the answer is an error.
    """
    services = call.services
    _authorize(call, operation, params)
    if operation.name == "DetectAnomalies":
        return detect_anomalies(call, params)
    handler = HANDLERS[operation.service][operation.name]
    if operation.is_read:
        with services.store.read() as connection:
            return handler(call, connection, params)
    try:
        result = _write(call, operation, params)
    except sa.exc.IntegrityError:
        # Another call was faster: a second look finds what it made, and answers as if it had come later.
        result = _write(call, operation, params)
    services.work.set()
    services.hosting.wake()
    return result


def _write(call: Call, operation: Operation, params: Params) -> OperationResult:
    token = params.get("ClientToken")
    with call.services.store.write() as connection:
        if token is None:
            return HANDLERS[operation.service][operation.name](call, connection, params)
        mine = {"account": call.scope.account, "region": call.scope.region, "operation": operation.name, "token": token}
        request = _fingerprint(params)
        known = connection.execute(sa.select(client_tokens).filter_by(**mine)).first()
        if known is not None and known.created > now() - TOKEN_LIFE_S:
            if known.request != request:
                raise ConflictError(
                    f"the client token {token} was used for {operation.name} with other parameters within {TOKEN_LIFE_S // 3600} "
                    "hours; use a new token for a new call",
                    token, _resource_type(operation),
                )  # fmt: skip
            return dict(known.answer)
        # The token is taken before the work: who comes with it meanwhile waits here, and fails at the unique key when it is
        # kept. A call that fails is forgotten with its transaction: the same token may try again.
        connection.execute(sa.delete(client_tokens).filter_by(**mine))
        connection.execute(sa.insert(client_tokens).values(**mine, request=request, answer={}, created=now()))
        result = HANDLERS[operation.service][operation.name](call, connection, params)
        connection.execute(sa.update(client_tokens).filter_by(**mine).values(answer=result))
        return result


def _fingerprint(params: Params) -> str:
    stated = {k: hashlib.sha256(v).hexdigest() if isinstance(v, bytes) else v for k, v in params.items() if k != "ClientToken"}
    return hashlib.sha256(msgspec.json.encode(stated, order="deterministic")).hexdigest()


def _resource_type(operation: Operation) -> ResourceType:
    kinds: dict[str, ResourceType] = {"Dataset": "DATASET", "PackagingJob": "MODEL_PACKAGE_JOB", "Model": "MODEL"}
    return next((kind for word, kind in kinds.items() if word in operation.name), "PROJECT")


def _authorize(call: Call, operation: Operation, params: Params) -> None:
    resources = resources_of(call.scope, operation, params)
    tags: Mapping[str, str] = {}
    if _has_conditions(call.identity.policy) or params.get("ModelVersion") == "latest":
        try:
            scope, project, version = _model_of(call.scope, operation, params)
            with call.services.store.read() as connection:
                row = find_model(connection, scope, project, version)
                tags = model_tags(connection, row.id)
        except (NotFoundError, _NoModelError):
            pass  # what is not there has no tags; that it is not there is the operation's to say
        else:
            resources = [scope.model(project, row.version)]
    for resource in resources:
        call.require(operation.action, resource, tags)


class _NoModelError(Exception):
    """The operation is not about a model."""


def _model_of(scope: Scope, operation: Operation, params: Params) -> tuple[Scope, str, str]:
    if "ResourceArn" in params:
        found, project, version = parse_model_arn(params["ResourceArn"])
        return found, project, str(version)
    if operation.name not in _ON_MODELS:
        raise _NoModelError
    return scope, params["ProjectName"], params["ModelVersion"]


def resources_of(scope: Scope, operation: Operation, params: Params) -> list[str]:
    """ARNs that policies are asked about; each must be allowed."""
    if operation.service == "rekognition":
        arns = [item["Arn"] for item in params.get("Datasets", [])]
        arns += [params["DatasetArn"]] if "DatasetArn" in params else []
        return arns or [f"arn:aws:rekognition:{scope.region}:{scope.account}:project/*"]
    if "ResourceArn" in params:
        return [params["ResourceArn"]]
    if operation.name in _ON_MODELS:
        return [scope.model(params["ProjectName"], params["ModelVersion"])]
    return [scope.project(params.get("ProjectName", "*"))]


def _has_conditions(policy: Policy) -> bool:
    return any(statement.Condition for statement in policy.Statement)
