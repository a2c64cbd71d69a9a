"""Amazon resource names, as the cloud service formed them."""

import re
from dataclasses import dataclass

from linewatch.control_plane.errors import ValidationError

_MODEL = re.compile(r"arn:aws:lookoutvision:([a-z0-9-]+):([0-9]{12}):model/([a-zA-Z0-9][a-zA-Z0-9_\-]*)/([1-9][0-9]{0,9})")
_DATASET = re.compile(r"arn:aws:rekognition:([a-z0-9-]+):([0-9]{12}):project/([^/]+)/dataset/(train|test)/([0-9]+)")


@dataclass(frozen=True, slots=True)
class Scope:
    """Account and region: every resource belongs to one of each."""

    account: str
    region: str

    def project(self, name: str) -> str:
        """ARN of a project."""
        return f"arn:aws:lookoutvision:{self.region}:{self.account}:project/{name}"

    def model(self, project: str, version: int | str) -> str:
        """ARN of a model version."""
        return f"arn:aws:lookoutvision:{self.region}:{self.account}:model/{project}/{version}"

    def component(self, name: str, version: str) -> str:
        """ARN of a Greengrass component's version."""
        return f"arn:aws:greengrass:{self.region}:{self.account}:components:{name}:versions:{version}"

    def rekognition_project(self, name: str, created: float) -> str:
        """ARN by which Rekognition's calls know a project; the number is its creation time in ms."""
        return f"arn:aws:rekognition:{self.region}:{self.account}:project/{name}/{int(created * 1000)}"

    def rekognition_dataset(self, project: str, kind: str, created: float) -> str:
        """ARN by which Rekognition's calls know a dataset."""
        return f"arn:aws:rekognition:{self.region}:{self.account}:project/{project}/dataset/{kind}/{int(created * 1000)}"


def parse_model_arn(arn: str) -> tuple[Scope, str, int]:
    """Scope, project and version of a model's ARN.

    Raises:
        ValidationError: another kind of ARN; only models have tags.
    """
    match = _MODEL.fullmatch(arn)
    if not match:
        raise ValidationError(
            f"{arn!r} is not the ARN of a model; expected arn:aws:lookoutvision:REGION:ACCOUNT:model/PROJECT/VERSION"
        )
    return Scope(match[2], match[1]), match[3], int(match[4])


def parse_dataset_arn(arn: str) -> tuple[Scope, str, str, int] | None:
    """Scope, project, train or test, and creation time in ms of a Rekognition dataset's ARN; None for anything else."""
    match = _DATASET.fullmatch(arn)
    return (Scope(match[2], match[1]), match[3], match[4], int(match[5])) if match else None
