"""Packaging as a job: `python -m packager.job FOLDER`; see `anomaly_model.child_job`."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from anomaly_model.bundle import open_bundle
from anomaly_model.child_job import ProgressFile, main
from packager.package import find_target, package


class Spec(msgspec.Struct, frozen=True):
    """What to package.

    Attributes:
        bundle: folder of the model.
        target: name of the platform, such as x86_64-cpu.
        output: folder for recipe and artifact.
        name: of the component.
        version: of the component.
    """

    bundle: str
    target: str
    output: str
    name: str
    version: str


def run(spec: Spec, progress: ProgressFile) -> dict[str, Any]:
    """Compile, prove and pack; returns where artifact and recipe lie, relative to the output."""
    output = Path(spec.output)
    done = package(
        open_bundle(Path(spec.bundle)), find_target(spec.target), output, name=spec.name, component_version=spec.version,
        progress=progress,
    ).component  # fmt: skip
    return {"artifact": str(done.artifact.relative_to(output)), "recipe": str(done.recipe.relative_to(output))}


if __name__ == "__main__":
    sys.exit(main(run, Spec, sys.argv[1:]))
