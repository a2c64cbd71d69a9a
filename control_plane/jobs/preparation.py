"""What a training or packaging needs before it is submitted, and what its outcome changes."""

import logging
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from linewatch.anomaly_model.child_job import Outcome
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import atomic_file
from linewatch.control_plane.entries import EntryError, parse_entry
from linewatch.control_plane.errors import AccessDeniedError
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.jobs.remedies import advise
from linewatch.control_plane.jobs.worker import LOG, JobSpec, write_spec
from linewatch.control_plane.operations.datasets import training_lines
from linewatch.control_plane.operations.lookup import dataset_of
from linewatch.control_plane.operations.packaging import compiler_options, target_name
from linewatch.control_plane.results import component, evaluation
from linewatch.control_plane.rights import caller_of, require_readable, require_writable
from linewatch.control_plane.services import Call, Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import now
from linewatch.control_plane.store.schema import Row, components, models, packagings, projects
from linewatch.control_plane.store.transitions import advance

log = logging.getLogger(__name__)
_PACKAGE_HOURS = 2.0


class NotYetError(LinewatchError):
    """The job waits for something, such as a dataset that is being read."""


class PreparationError(LinewatchError):
    """The job cannot be done."""


def prepare(services: Services, job: Row) -> JobSpec:
    """Write a job's folder: spec, and for a training the manifests as they are now.

    Raises:
        NotYetError: a dataset that the job needs is still being made or changed.
        PreparationError: what the job is for is gone, a dataset cannot be used, or the caller has lost the rights.
    """
    folder = (services.settings.folder / "jobs" / str(job.id)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Once its process was started it has read what it needs: rights that end later do not take a night's work with them.
        caller = None if (folder / LOG).exists() else caller_of(services, job.spec)
        with services.store.read() as connection:
            write = _prepare_training if job.kind == "train" else _prepare_packaging
            account, fetch, upload = write(services, connection, job, folder, caller)
    except AccessDeniedError as error:
        raise PreparationError(str(error)) from None
    settings = services.settings
    return JobSpec(
        job.kind, str(folder), float(settings.training_hours) if job.kind == "train" else _PACKAGE_HOURS,
        settings.objects_root, settings.objects_endpoint, settings.region, settings.objects_timeout_s, fetch, upload,
        account,
    )  # fmt: skip


Files = tuple[str, list[str], list[tuple[str, str, str, str]]]
"""The account that they belong to, what is read, and what is written."""


def _prepare_training(services: Services, connection: Connection, job: Row, folder: Path, caller: Call | None) -> Files:
    joined = models.join(projects, models.c.project_id == projects.c.id)
    query = sa.select(models, projects.c.account, projects.c.region, projects.c.name).select_from(joined)
    model = connection.execute(query.where(models.c.id == job.subject_id)).first()
    if model is None or model.status != "TRAINING":
        raise PreparationError("the model is gone")
    train = dataset_of(connection, model.project_id, "train")
    test = dataset_of(connection, model.project_id, "test")
    for row in (train, test):
        if row is not None and row.status.endswith("_IN_PROGRESS"):
            raise NotYetError(f"the {row.kind} dataset is {row.status}")
    if train is None or train.status == "CREATE_FAILED":
        raise PreparationError(f"there is no train dataset to train on{f': {train.message}' if train else ''}")
    if test is not None and test.status == "CREATE_FAILED":
        raise PreparationError(f"the test dataset is CREATE_FAILED: {test.message}")
    settings, version = services.settings, str(model.version)
    fetch: list[str] = []
    manifests = {}
    for row in (train, test):
        if row is not None:
            manifests[row.kind] = folder / f"{row.kind}.manifest"
            # The first attempt's copy stays: what is changed in the dataset later is not part of this training.
            fetch += _write_manifest(connection, row.id, manifests[row.kind])
    places = evaluation(model.output_prefix, model.name, version)
    if caller is not None:
        require_readable(caller, fetch)
        require_writable(caller, model.output_bucket, places.files, places.masks)
    write_spec(folder, {
        "manifest": str(manifests["train"]),
        "test_manifest": str(manifests["test"]) if "test" in manifests else None,
        "root": str(folder / "pictures"),
        "output": str(services.settings.bundle_folder(model.id)),
        "results": str(folder / "results"),
        "masks_at": f"s3://{model.output_bucket}/{places.masks}",
        "name": model.name,
        "version": version,
        "arn": Scope(model.account, model.region).model(model.name, version),
        "effort": settings.training_effort,
        "encoder": settings.training_encoder,
        "rules": {
            "least_normal": settings.least_normal, "least_anomaly": settings.least_anomaly,
            "least_normal_each": settings.least_normal_each, "least_test_anomaly": settings.least_test_anomaly,
            "least_label": settings.least_label, "least_label_each": settings.least_label_each,
            "most_train": settings.quota_train_pictures, "most_test": settings.quota_test_pictures,
            "most_train_masked": settings.quota_train_masked, "most_test_masked": settings.quota_test_masked,
            "most_labels": settings.quota_labels, "most_labels_in_mask": settings.quota_mask_labels,
        },
    })  # fmt: skip
    services.settings.bundle_folder(model.id).parent.mkdir(parents=True, exist_ok=True)
    bucket, name = model.output_bucket, f"{model.name}-{version}.json"
    files = [
        ("results/masks/*.png", bucket, places.masks, "image/png"),
        (f"results/EvaluationManifest-{name}", bucket, places.manifest, "application/json"),
        (f"results/EvaluationResult-{name}", bucket, places.result, "application/json"),
        ("results/report.html", bucket, places.report, "text/html"),
    ]
    return model.account, sorted(set(fetch)), files


def _write_manifest(connection: Connection, dataset_id: int, path: Path) -> list[str]:
    """Copy the lines of a dataset's labelled pictures; returns the addresses of what training reads.

    Raises:
        PreparationError: a line of the dataset is one that an earlier version took and this one does not.
    """
    if not path.exists():
        with atomic_file(path) as stream:
            for line in training_lines(connection, dataset_id):
                stream.write(line.encode() + b"\n")
    addresses: list[str] = []
    with path.open("rb") as copied:
        for raw in copied:
            try:
                addresses += parse_entry(raw).read_in_training
            except EntryError as error:  # of a version that took it
                raise PreparationError(f"a line of the dataset {error}. Make the dataset again without it") from None
    return addresses


def _prepare_packaging(services: Services, connection: Connection, job: Row, folder: Path, caller: Call | None) -> Files:
    joined = packagings.join(projects, packagings.c.project_id == projects.c.id)
    found = sa.select(packagings, projects.c.account, projects.c.region).select_from(joined)
    row = connection.execute(found.where(packagings.c.id == job.subject_id)).first()
    if row is None:
        raise PreparationError("the project is gone")
    query = sa.select(models.c.id).where(models.c.project_id == row.project_id, models.c.version == row.model_version)
    model_id = connection.execute(query).scalar()
    if model_id is None or not services.settings.bundle_folder(model_id).is_dir():
        raise PreparationError(f"the model version {row.model_version} is gone")
    wanted = row.configuration["Greengrass"]
    name, version = wanted["ComponentName"], wanted["ComponentVersion"]
    place = wanted["S3OutputLocation"]
    base = component(place.get("Prefix", ""), name, version)
    if caller is not None:
        require_writable(caller, place["Bucket"], (), base)
    write_spec(folder, {
        "bundle": str(services.settings.bundle_folder(model_id)), "target": target_name(wanted), "output": str(folder / "output"),
        "name": name, "version": version, "compiler_options": compiler_options(wanted),
        "description": wanted.get("ComponentDescription", ""), "tags": {t["Key"]: t["Value"] for t in wanted.get("Tags", [])},
        "location": f"s3://{place['Bucket']}/{base}", "key": services.settings.packaging_key,
        **_publishing(services.settings, Scope(row.account, row.region), place),
    })  # fmt: skip
    return row.account, [], [
        ("output/component.json", place["Bucket"], f"{base}component.json", "application/json"),
        (f"output/artifacts/{name}/{version}/*.zip", place["Bucket"], base, "application/zip"),
        (f"output/recipes/{name}-{version}.json", place["Bucket"], f"{base}recipe.json", "application/json"),
    ]


def _publishing(settings: Settings, owner: Scope, place: dict[str, str]) -> dict[str, Any]:
    """Where the packager creates the component version: a store that local deployments take, or AWS IoT Greengrass."""
    if settings.packaging_publish == "aws":
        return {"aws": {"bucket": place["Bucket"], "prefix": place.get("Prefix", ""), "region": owner.region}}
    return {"store": str(settings.folder / "components" / owner.account / owner.region)}


def finish(connection: Connection, services: Services, job: Row, outcome: Outcome) -> None:
    """Carry an outcome to the model or packaging, in the transaction that ends the job.

    Args:
        connection: of the transaction that ends the job.
        services: of the server.
        job: its row.
        outcome: of its process.
    """
    log.info("job %s %s: %s", job.id, job.kind, outcome.error or "succeeded")
    apply_outcome(connection, job, outcome)
    services.work.set()


def apply_outcome(connection: Connection, job: Row, outcome: Outcome) -> None:
    """What an outcome changes in the store."""
    if job.kind == "train":
        _finish_training(connection, job, outcome)
    else:
        _finish_packaging(connection, job, outcome)


def _finish_training(connection: Connection, job: Row, outcome: Outcome) -> None:
    if outcome.error:
        advance(connection, "model", job.subject_id, "training failed", message=advise(outcome.error, outcome.remedies))
        return
    prefix = connection.execute(sa.select(models.c.output_prefix).where(models.c.id == job.subject_id)).scalar() or ""
    result = outcome.result
    advance(
        connection, "model", job.subject_id, "trained", performance=result["performance"], evaluated=now(), message=result.get("warning", ""),
        evaluation_manifest=f"{prefix}{result['evaluation_manifest']}", evaluation_result=f"{prefix}{result['evaluation_result']}",
    )  # fmt: skip


def _finish_packaging(connection: Connection, job: Row, outcome: Outcome) -> None:
    if outcome.error:
        advance(connection, "packaging", job.subject_id, "failed", message=advise(outcome.error, outcome.remedies))
        # The name and version may be used again.
        connection.execute(sa.delete(components).where(components.c.packaging_id == job.subject_id))
        return
    advance(connection, "packaging", job.subject_id, "succeeded")
