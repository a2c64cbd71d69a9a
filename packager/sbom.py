"""The software bill of materials (SBOM) of a package, in CycloneDX: what is in it, under which licences, and what made it."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from linewatch.anomaly_model.manifest import Manifest

SBOM_NAME = "sbom.cdx.json"
_LICENCES = {"apache-tvm": "Apache-2.0", "apache-tvm-ffi": "Apache-2.0", "linewatch": "Apache-2.0", "onnxruntime": "MIT", "numpy": "BSD-3-Clause"}
_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
"""Fixed, so that the same input gives the same bytes."""


class PretrainedNet(msgspec.Struct, frozen=True):
    """What a bundle says of a pretrained net that its model holds.

    Attributes:
        name: of the package that its weights came from.
        version: of it.
        sha256: of the weights.
        licence: an SPDX expression, or a sentence.
        used: whether the model holds it.
    """

    name: str
    version: str
    sha256: str
    licence: str
    used: bool


def pretrained_net(manifest: Manifest) -> PretrainedNet | None:
    """The pretrained encoder that the model holds; None without one, as in models of earlier versions."""
    try:
        found = msgspec.convert(manifest.training.get("encoder"), PretrainedNet)
    except msgspec.ValidationError:  # a sentence: there was none
        return None
    return found if found.used else None


def make_sbom(manifest: Manifest, files: Mapping[str, bytes], tools: Mapping[str, str], runtimes: Mapping[str, str]) -> bytes:
    """The SBOM as JSON; the same input gives the same bytes.

    Args:
        manifest: of the model.
        files: of the package, by name.
        tools: what made it: name to version.
        runtimes: libraries in the package that come from a tool: file name to tool.
    """
    model = manifest.model
    digest = sha256(b"".join(sha256(files[name]).digest() for name in sorted(files))).hexdigest()
    root = Component(
        name=model.name, version=model.version, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model", group="linewatch",
        properties=[Property(name="linewatch:arn", value=model.arn)],
    )  # fmt: skip
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.timestamp = _MOMENT
    bom.metadata.component = root
    licences = LicenseFactory()
    for tool, version in sorted(tools.items()):
        bom.components.add(Component(
            name=tool, version=version, type=ComponentType.LIBRARY, bom_ref=tool, purl=PackageURL("pypi", None, tool, version),
            licenses=[licences.make_from_string(_LICENCES[tool])] if tool in _LICENCES else [],
        ))  # fmt: skip
    net = pretrained_net(manifest)
    if net is not None:
        bom.components.add(Component(
            name=net.name, version=net.version, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=net.name,
            purl=PackageURL("pypi", None, net.name, net.version), licenses=[licences.make_from_string(net.licence)],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=net.sha256)],
        ))  # fmt: skip
    for name, data in sorted(files.items()):
        source = runtimes.get(name)
        bom.components.add(Component(
            name=name, type=ComponentType.FILE, bom_ref=f"file:{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(data).hexdigest())],
            properties=[Property(name="linewatch:from", value=source)] if source else [],
        ))  # fmt: skip
    bom.register_dependency(root, list(bom.components))
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    return text.encode() + b"\n"
