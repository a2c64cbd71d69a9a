"""Model versions: training, hosting, deleting."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.entries import parse_entry
from linewatch.control_plane.errors import ConflictError, QuotaError, ValidationError
from linewatch.control_plane.operations.datasets import both_datasets, training_lines
from linewatch.control_plane.operations.lookup import count, find_model, find_project
from linewatch.control_plane.operations.packaging import UNFINISHED
from linewatch.control_plane.operations.paging import read_page
from linewatch.control_plane.operations.tagging import put_tags
from linewatch.control_plane.results import evaluation
from linewatch.control_plane.rights import CALLER, require_readable, require_writable
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.job_queue import add_job
from linewatch.control_plane.store.schema import Row, models, packagings, projects, tags
from linewatch.control_plane.store.transitions import advance
from linewatch.control_plane.wire.requests import Params

ACTIVE = ("STARTING_HOSTING", "HOSTED", "SYSTEM_UPDATING", "STOPPING_HOSTING")


def create_model(call: Call, connection: Connection, params: Params) -> OperationResult:
    """CreateModel: a new version, trained in the background."""
    name, settings, scope = params["ProjectName"], call.services.settings, call.scope
    project = find_project(connection, scope, name)
    location = params["OutputConfig"]["S3Location"]
    datasets = [row for row in both_datasets(connection, project) if row is not None]
    places = evaluation(location.get("Prefix", ""), name, project.next_version)
    require_writable(call, location["Bucket"], places.files, places.masks)
    for row in datasets:  # one that is being read is asked about when the training begins, as all are once more
        lines = map(parse_entry, map(str.encode, training_lines(connection, row.id)))
        require_readable(call, (address for entry in lines for address in entry.read_in_training))
    if params.get("Tags"):
        call.require("lookoutvision:TagResource", scope.model(name, project.next_version))
    _check_quotas(connection, call, project)
    version = connection.execute(
        sa.update(projects).where(projects.c.id == project.id).values(next_version=projects.c.next_version + 1)
        .returning(projects.c.next_version)
    ).scalar_one() - 1  # fmt: skip
    row = connection.execute(
        sa.insert(models)
        .values(project_id=project.id, version=version, status="TRAINING", created=now(),
                description=params.get("Description"), kms_key=params.get("KmsKeyId"), output_bucket=location["Bucket"],
                output_prefix=location.get("Prefix", ""))
        .returning(models)
    ).one()  # fmt: skip
    if params.get("Tags"):
        put_tags(connection, row.id, params["Tags"], settings.quota_tags, f"{name}/{version}")
    add_job(connection, "train", row.id, {CALLER: call.identity.access_key})
    return {"ModelMetadata": _metadata(call, name, row)}


def _check_quotas(connection: Connection, call: Call, project: Row) -> None:
    settings = call.services.settings
    total = count(connection, models, models.c.project_id == project.id)
    if total >= settings.quota_models:
        raise QuotaError(
            f"The project {project.name} has {total} models, the most that quota_models allows; delete some",
            "quota_models", project.name, "PROJECT",
        )  # fmt: skip
    joined = models.join(projects, models.c.project_id == projects.c.id)
    running = count(connection, joined, projects.c.account == call.scope.account, models.c.status == "TRAINING")
    if running >= settings.quota_trainings:
        raise QuotaError(
            f"{running} models are being trained, the most that quota_trainings allows; wait for one to finish",
            "quota_trainings", project.name, "MODEL",
        )  # fmt: skip


def describe_model(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeModel."""
    name = params["ProjectName"]
    row = find_model(connection, call.scope, name, params["ModelVersion"])
    bucket = row.output_bucket

    def place(key: str | None) -> OperationResult | None:
        return None if key is None else {"Bucket": bucket, "Key": key}

    return {
        "ModelDescription": {
            **_metadata(call, name, row),
            "OutputConfig": {"S3Location": {"Bucket": bucket, "Prefix": row.output_prefix}},
            "EvaluationManifest": place(row.evaluation_manifest),
            "EvaluationResult": place(row.evaluation_result),
            "EvaluationEndTimestamp": row.evaluated,
            "KmsKeyId": row.kms_key,
            "MinInferenceUnits": row.min_units if row.status in ACTIVE else None,
            "MaxInferenceUnits": row.max_units if row.status in ACTIVE else None,
        }
    }


def list_models(call: Call, connection: Connection, params: Params) -> OperationResult:
    """ListModels, newest first."""
    name = params["ProjectName"]
    project = find_project(connection, call.scope, name)
    query = sa.select(models).where(models.c.project_id == project.id)
    rows, token = read_page(call, connection, params, ["models", project.id], query, models.c.version, newest_first=True)
    return {"Models": [_metadata(call, name, row) for row in rows], "NextToken": token}


_BEFORE_DELETING = {
    "TRAINING": "wait until it is trained, or cancel its job with: linewatch jobs cancel",
    "DELETING": "it is on its way out",
}


def delete_model(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DeleteModel, of a model that nothing works on: not while it is trained, hosted or packaged.

    Raises:
        NotFoundError: there is no such model.
        ConflictError: something works on it.
    """
    name, version = params["ProjectName"], params["ModelVersion"]
    row = find_model(connection, call.scope, name, version)
    if not advance(connection, "model", row.id, "delete"):
        advice = _BEFORE_DELETING.get(row.status, "stop it with StopModel first")
        raise ConflictError(f"The model {name} version {version} is {row.status}; {advice}", f"{name}/{version}", "MODEL")
    busy = sa.and_(packagings.c.project_id == row.project_id, packagings.c.model_version == row.version,
                   packagings.c.status.in_(UNFINISHED))  # fmt: skip
    job = connection.execute(sa.select(packagings.c.name).where(busy).limit(1)).scalar()
    if job is not None:
        raise ConflictError(
            f"The model {name} version {version} is being packaged by the job {job}; wait until that is done",
            f"{name}/{version}", "MODEL",
        )  # fmt: skip
    add_job(connection, "delete_model", row.id, {})
    return {"ModelArn": call.scope.model(name, row.version)}


def start_model(call: Call, connection: Connection, params: Params) -> OperationResult:
    """StartModel: hosting begins in the background.

    Raises:
        NotFoundError: there is no such model.
        ValidationError: more units at least than at most.
        QuotaError: too many units, or too many hosted models.
        ConflictError: the model is not trained, or is hosted.
    """
    name, version, settings = params["ProjectName"], params["ModelVersion"], call.services.settings
    low, high = params["MinInferenceUnits"], params.get("MaxInferenceUnits")
    row = find_model(connection, call.scope, name, version)
    resource = f"{name}/{row.version}"
    if high is not None and high < low:
        raise ValidationError(f"MaxInferenceUnits is {high}, less than MinInferenceUnits, {low}")
    if max(low, high or 0) > settings.quota_units:
        raise QuotaError(
            f"{max(low, high or 0)} inference units were asked for; quota_units allows {settings.quota_units} for one model",
            "quota_units", resource, "MODEL",
        )  # fmt: skip
    hosted = count(connection, models, models.c.status.in_(ACTIVE))
    if row.status not in ACTIVE and hosted >= settings.quota_hosted:
        raise QuotaError(
            f"{hosted} models are hosted, the most that quota_hosted allows; stop one", "quota_hosted", resource, "MODEL"
        )
    if not advance(connection, "model", row.id, "start", min_units=low, max_units=high):
        raise ConflictError(
            f"The model {name} version {row.version} is {row.status}; only a trained model that is not hosted can be started",
            resource, "MODEL",
        )  # fmt: skip
    return {"Status": "STARTING_HOSTING"}


def stop_model(call: Call, connection: Connection, params: Params) -> OperationResult:
    """StopModel: running calls are answered, then the processes end.

    Raises:
        NotFoundError: there is no such model.
        ConflictError: the model is not hosted.
    """
    name = params["ProjectName"]
    row = find_model(connection, call.scope, name, params["ModelVersion"])
    if not advance(connection, "model", row.id, "stop"):
        raise ConflictError(
            f"The model {name} version {row.version} is {row.status}; only a hosted model can be stopped",
            f"{name}/{row.version}", "MODEL",
        )  # fmt: skip
    return {"Status": "STOPPING_HOSTING"}


def model_tags(connection: Connection, model_id: int) -> dict[str, str]:
    """Tags of a model."""
    rows = connection.execute(sa.select(tags.c.key, tags.c.value).where(tags.c.model_id == model_id))
    return {row.key: row.value for row in rows}


def _metadata(call: Call, project: str, row: Row) -> OperationResult:
    """ModelMetadata. The message is always there: scripts read it without looking."""
    return {
        "CreationTimestamp": row.created,
        "ModelVersion": str(row.version),
        "ModelArn": call.scope.model(project, row.version),
        "Description": row.description,
        "Status": row.status,
        "StatusMessage": row.message,
        "Performance": row.performance,
    }
