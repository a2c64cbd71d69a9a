"""The operations: what each call does, apart from how it came over the wire."""

from collections.abc import Callable

from sqlalchemy.engine import Connection

from linewatch.control_plane.operations import datasets, models, packaging, projects, rekognition, tagging
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.wire.requests import Params

Handler = Callable[[Call, Connection, Params], OperationResult]

HANDLERS: dict[str, dict[str, Handler]] = {
    "lookoutvision": {
        "CreateDataset": datasets.create_dataset,
        "CreateModel": models.create_model,
        "CreateProject": projects.create_project,
        "DeleteDataset": datasets.delete_dataset,
        "DeleteModel": models.delete_model,
        "DeleteProject": projects.delete_project,
        "DescribeDataset": datasets.describe_dataset,
        "DescribeModel": models.describe_model,
        "DescribeModelPackagingJob": packaging.describe_model_packaging_job,
        "DescribeProject": projects.describe_project,
        "ListDatasetEntries": datasets.list_dataset_entries,
        "ListModelPackagingJobs": packaging.list_model_packaging_jobs,
        "ListModels": models.list_models,
        "ListProjects": projects.list_projects,
        "ListTagsForResource": tagging.list_tags_for_resource,
        "StartModel": models.start_model,
        "StartModelPackagingJob": packaging.start_model_packaging_job,
        "StopModel": models.stop_model,
        "TagResource": tagging.tag_resource,
        "UntagResource": tagging.untag_resource,
        "UpdateDatasetEntries": datasets.update_dataset_entries,
    },
    "rekognition": {
        "DescribeDataset": rekognition.describe_dataset,
        "DescribeProjects": rekognition.describe_projects,
        "DistributeDatasetEntries": rekognition.distribute_dataset_entries,
    },
}
"""Each runs in one transaction, together with the record of its client token. DetectAnomalies, which waits for a model and
changes nothing, is the only one that does not: `linewatch.control_plane.operations.detection`."""
