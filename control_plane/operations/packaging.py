"""Packaging jobs: a model becomes a Greengrass component."""

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.control_plane.errors import ConflictError, QuotaError, ValidationError
from linewatch.control_plane.operations.lookup import count, find_model, find_packaging, find_project
from linewatch.control_plane.operations.paging import read_page
from linewatch.control_plane.results import component as component_prefix
from linewatch.control_plane.rights import CALLER, require_writable
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.job_queue import add_job
from linewatch.control_plane.store.schema import Row, components, models, packagings, projects
from linewatch.control_plane.wire.requests import Params
from linewatch.packager.targets import GPU_OPTIONS, TargetError, find_target, parse_options

METHOD = "Greengrass"
PACKABLE = ("TRAINED", "STARTING_HOSTING", "HOSTED", "SYSTEM_UPDATING", "STOPPING_HOSTING", "HOSTING_FAILED")


UNFINISHED = ("CREATED", "RUNNING")


def start_model_packaging_job(call: Call, connection: Connection, params: Params) -> OperationResult:
    """StartModelPackagingJob: compiled and packed in the background.

    Raises:
        NotFoundError: there is no such project or model.
        ValidationError: the target cannot be packaged for.
        ConflictError: the model is not trained, or the job's or component's name is taken.
        QuotaError: too many packagings at the same time.
        AccessDeniedError: the caller may not write to the place for the results.
    """
    project_name, scope = params["ProjectName"], call.scope
    project = find_project(connection, scope, project_name)
    model = find_model(connection, scope, project_name, params["ModelVersion"])
    wanted = params["Configuration"]["Greengrass"]
    check_target(wanted)
    # On PostgreSQL a DeleteModel that is being answered is waited for, and one that comes later waits for us.
    status = connection.execute(sa.select(models.c.status).where(models.c.id == model.id).with_for_update()).scalar()
    if status not in PACKABLE:
        raise ConflictError(
            f"The model {project_name} version {model.version} is {status}; only a trained model can be packaged",
            f"{project_name}/{model.version}", "MODEL",
        )  # fmt: skip
    place, component = wanted["S3OutputLocation"], wanted["ComponentName"]
    version = wanted.get("ComponentVersion") or f"{model.version}.0.0"
    require_writable(call, place["Bucket"], (), component_prefix(place.get("Prefix", ""), component, version))
    call.require("greengrass:CreateComponentVersion", f"arn:aws:greengrass:{scope.region}:{scope.account}:components:{component}")
    _check_quota(connection, call, project_name)
    job = params.get("JobName") or str(uuid.uuid4())
    taken = sa.select(packagings.c.id).where(packagings.c.project_id == project.id, packagings.c.name == job)
    if connection.execute(taken).first():
        raise ConflictError(f"The project {project_name} has a packaging job {job} already", job, "MODEL_PACKAGE_JOB")
    configuration = {"Greengrass": {**wanted, "ComponentVersion": version}}
    moment = now()
    row_id = connection.execute(
        sa.insert(packagings)
        .values(project_id=project.id, name=job, model_version=model.version, configuration=configuration,
                description=params.get("Description"), status="CREATED", created=moment, updated=moment)
        .returning(packagings.c.id)
    ).scalar_one()  # fmt: skip
    mine = {"account": scope.account, "region": scope.region, "name": component, "version": version}
    if connection.execute(sa.select(components).filter_by(**mine)).first():
        raise ConflictError(
            f"The component {component} version {version} exists already; give another ComponentName or ComponentVersion",
            scope.component(component, version), "MODEL_PACKAGE_JOB",
        )  # fmt: skip
    connection.execute(sa.insert(components).values(**mine, packaging_id=row_id))
    add_job(connection, "package", row_id, {CALLER: call.identity.access_key})
    return {"JobName": job}


def _check_quota(connection: Connection, call: Call, project: str) -> None:
    quota = call.services.settings.quota_packagings
    joined = packagings.join(projects, packagings.c.project_id == projects.c.id)
    unfinished = packagings.c.status.in_(UNFINISHED)
    running = count(connection, joined, projects.c.account == call.scope.account, unfinished)
    if running >= quota:
        raise QuotaError(
            f"{running} packaging jobs are running, the most that quota_packagings allows; wait for one to finish",
            "quota_packagings", project, "MODEL_PACKAGE_JOB",
        )  # fmt: skip


def check_target(wanted: dict[str, Any]) -> None:
    """Check what belongs together in a Greengrass configuration.

    Raises:
        ValidationError: what was given, and what is expected.
    """
    device, platform, text = wanted.get("TargetDevice"), wanted.get("TargetPlatform"), wanted.get("CompilerOptions")
    if (device is None) == (platform is None):
        raise ValidationError("Give either TargetDevice or TargetPlatform" + (", not both" if device else ""))
    if device is not None and text is not None:
        raise ValidationError("With TargetDevice there are no CompilerOptions; give TargetPlatform to choose them")
    try:
        options = compiler_options(wanted)
        if (platform or {}).get("Accelerator") and not options.keys() & GPU_OPTIONS:
            example = '{"gpu-code": "sm_75", "trt-ver": "8.6.1", "cuda-ver": "12.4"}'
            raise ValidationError(f"CompilerOptions: NVIDIA needs {', '.join(GPU_OPTIONS)}, such as {example}")
        find_target(target_name(wanted), options)
    except TargetError as error:
        raise ValidationError(f"CompilerOptions: {error}") from None


def target_name(wanted: dict[str, Any]) -> str:
    """The packager's name of a platform."""
    platform = wanted.get("TargetPlatform")
    if platform is None:
        return str(wanted["TargetDevice"])
    arch = {"X86_64": "x86_64", "ARM64": "aarch64"}[platform["Arch"]]
    return f"{arch}-{'nvidia' if platform.get('Accelerator') else 'cpu'}"


def compiler_options(wanted: dict[str, Any]) -> dict[str, str | list[str]]:
    """CompilerOptions, read.

    Raises:
        TargetError: not an object.
    """
    text = wanted.get("CompilerOptions")
    return parse_options(text) if text is not None else {}


def describe_model_packaging_job(call: Call, connection: Connection, params: Params) -> OperationResult:
    """DescribeModelPackagingJob."""
    row = find_packaging(connection, call.scope, params["ProjectName"], params["JobName"])
    wanted = row.configuration["Greengrass"]
    output = None
    if row.status == "SUCCEEDED":
        name, version = wanted["ComponentName"], wanted["ComponentVersion"]
        output = {
            "Greengrass": {
                "ComponentVersionArn": call.scope.component(name, version), "ComponentName": name, "ComponentVersion": version,
            }
        }  # fmt: skip
    return {
        "ModelPackagingDescription": {
            **_metadata(params["ProjectName"], row),
            "ModelPackagingConfiguration": row.configuration,
            "ModelPackagingOutputDetails": output,
        }
    }


def list_model_packaging_jobs(call: Call, connection: Connection, params: Params) -> OperationResult:
    """ListModelPackagingJobs, newest first."""
    name = params["ProjectName"]
    project = find_project(connection, call.scope, name)
    query = sa.select(packagings).where(packagings.c.project_id == project.id)
    rows, token = read_page(call, connection, params, ["packagings", project.id], query, packagings.c.id, newest_first=True)
    return {"ModelPackagingJobs": [_metadata(name, row) for row in rows], "NextToken": token}


def _metadata(project: str, row: Row) -> OperationResult:
    return {
        "JobName": row.name, "ProjectName": project, "ModelVersion": str(row.model_version),
        "ModelPackagingJobDescription": row.description, "ModelPackagingMethod": METHOD, "Status": row.status,
        "StatusMessage": row.message, "CreationTimestamp": row.created, "LastUpdatedTimestamp": row.updated,
    }  # fmt: skip
