"""Packaging as a job: `python -P -m linewatch.packager.job FOLDER`; see `linewatch.anomaly_model.child_job`."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from linewatch.anomaly_model.bundle import open_bundle
from linewatch.anomaly_model.child_job import ProgressFile, main
from linewatch.anomaly_model.parity import DisparityError
from linewatch.anomaly_model.runtime_tvm import leave_torch_out
from linewatch.anomaly_model.signature import read_private_key
from linewatch.packager.component import ComponentError
from linewatch.packager.package import PackageOptions, package
from linewatch.packager.publish import ComponentExistsError, RefusedError, publish_to_aws, publish_to_store
from linewatch.packager.targets import TargetError, find_target

USER_ERRORS = (TargetError, ComponentError, DisparityError, ComponentExistsError, RefusedError)
"""What is wrong with the wish, the model's code, or the account that the component goes to."""


class Spec(msgspec.Struct, frozen=True):
    """What to package.

    Attributes:
        bundle: folder of the model.
        target: name of the platform, such as x86_64-cpu.
        compiler_options: see `linewatch.packager.targets.find_target`.
        output: folder for recipe and artifact.
        name, version, description, tags: of the component.
        location: address of the folder that the artifact will lie in.
        key: file of the private key that signs the package; empty leaves it unsigned.
        store: component store that the component is published to; empty for none.
        aws: bucket, prefix and region to create the component version in AWS IoT Greengrass with; empty for none.
    """

    bundle: str
    target: str
    output: str
    name: str
    version: str
    compiler_options: dict[str, str | list[str]] = {}
    description: str = ""
    tags: dict[str, str] = {}
    location: str = ""
    key: str = ""
    store: str = ""
    aws: dict[str, str] = {}


def run(spec: Spec, progress: ProgressFile) -> dict[str, Any]:
    """Compile, verify, pack and publish; returns where artifact and recipe lie, relative to the output."""
    output = Path(spec.output)
    options = PackageOptions(
        name=spec.name, version=spec.version, description=spec.description, tags=spec.tags, location=spec.location,
        key=read_private_key(Path(spec.key)) if spec.key else None,
    )  # fmt: skip
    target = find_target(spec.target, spec.compiler_options)
    done = package(open_bundle(Path(spec.bundle)), target, output, options, progress).component
    if spec.store:
        publish_to_store(output, Path(spec.store), replace=True)  # the server's table says what is taken
    if spec.aws:
        import boto3

        session = boto3.Session(region_name=spec.aws["region"])
        publish_to_aws(output, spec.aws["bucket"], spec.aws["prefix"], session.client("s3"), session.client("greengrassv2"))
    return {"artifact": str(done.artifacts[0].path.relative_to(output)), "recipe": str(done.recipe.relative_to(output))}


if __name__ == "__main__":
    leave_torch_out()
    sys.exit(main(run, Spec, sys.argv[1:], user_errors=USER_ERRORS))
