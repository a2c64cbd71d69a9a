"""The service's model for new releases of boto3 and the AWS CLI, which dropped it: put where they look for models."""

from dataclasses import dataclass
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.control_plane.wire.service_model import models_folder

SERVICE = "lookoutvision"
DEFAULT = Path.home() / ".aws" / "models"
"""Every boto3 and AWS CLI looks here without being told."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was installed.

    Attributes:
        folder: of the models.
        files: that were written.
        needs_path: boto3 and the AWS CLI look there only with AWS_DATA_PATH.
    """

    folder: Path
    files: list[Path]
    needs_path: bool


def install(folder: Path | None = None) -> Installed:
    """Copy service model, paginators and endpoint rules to a folder of models.

    Args:
        folder: by default ~/.aws/models.

    Raises:
        LinewatchError: it cannot be written.
    """
    target = folder or DEFAULT
    source = models_folder()
    files = []
    try:
        for path in sorted((source / SERVICE).rglob("*.json")):
            place = target / path.relative_to(source)
            replace_file(place, path.read_bytes())
            files.append(place)
    except OSError as error:
        raise LinewatchError(f"{target} cannot be written: {error.strerror}; name another folder with --folder") from error
    return Installed(target, files, target != DEFAULT)
