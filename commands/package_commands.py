"""The commands around packages: package, publish, agent-component, recipe, keys."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.commands.command_line import EXISTING, FOLDER, examples, guarded, json_option, print_json
from linewatch.commands.progress import StageProgress
from linewatch.commands.system_errors import check_folder

if TYPE_CHECKING:
    from linewatch.packager.component import Component

_RECIPE_READ = 1 << 20


@click.command(epilog=examples(
    "linewatch package bundle -o component",
    "linewatch package bundle --target jetson_xavier -o component --sign site.key",
    "linewatch package bundle --target x86_64-cpu --target aarch64-cpu -o component",
    """linewatch package bundle --target aarch64-cpu --compiler-options '{"mcpu": "cortex-a78"}' -o component"""))  # fmt: skip
@click.argument("bundle", type=EXISTING)
@click.option("--target", "targets", multiple=True, default=["x86_64-cpu"], show_default=True,
              help="Platform to compile for; several of different architectures share one component.")
@click.option("--compiler-options", metavar="JSON", help="Options of the (single) platform, such as mcpu; see docs/reference/targets.md.")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for recipe, artifact and the compiled bundle.")
@click.option("--name", default="", help="Component name, by which clients ask for the model; default model-NAME.")
@click.option("--component-version", default="", help="Component version; default MODELVERSION.0.0.")
@click.option("--description", default="", help="Component description.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag of the component; may be given several times.")
@click.option("--location", default="", metavar="S3-URI", help="Folder that the artifacts will be published to.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Measure schedules here, or choose by a model of their cost.")
@click.option("--tuning-log", type=EXISTING, help="Take schedules from a log instead.")
@click.option("--sign", "key", type=EXISTING, help="Private key to sign with; see linewatch keys.")
@json_option
@guarded
def package(
    bundle: Path, targets: tuple[str, ...], compiler_options: str | None, output: Path, name: str, component_version: str, description: str,
    tags: tuple[str, ...], location: str, tune: bool, tuning_log: Path | None, key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile a bundle, verify that it agrees with ONNX Runtime, and write a Greengrass component.

    \f

    Raises:
        click.UsageError: --compiler-options are given with several targets.
    """
    from linewatch.anomaly_model.bundle import open_bundle
    from linewatch.anomaly_model.signature import read_private_key
    from linewatch.packager.package import PackageOptions, package_each
    from linewatch.packager.targets import find_target, parse_options

    if compiler_options and len(targets) > 1:
        raise click.UsageError("--compiler-options belong to one --target; several are given")
    platforms = [find_target(target, parse_options(compiler_options) if compiler_options else None) for target in targets]
    options = PackageOptions(
        name=name, version=component_version, description=description, tags=_tags(tags), location=location,
        tuning=str(tuning_log) if tuning_log else "measure" if tune else "model", key=read_private_key(key) if key else None,
    )  # fmt: skip
    check_folder(output)
    with StageProgress(quiet=as_json) as progress:
        done = package_each(open_bundle(bundle), platforms, output, options, progress)
    if as_json:
        print_json({
            **_component(done.component), "seconds": done.seconds, "parity": [v.parity for v in done.variants if v.parity],
            "timing": [v.timing for v in done.variants if v.timing],
            "not_run_here": [v.isa.name for v in done.variants if v.parity is None] + done.cubins,
        })  # fmt: skip
        return
    from linewatch.commands.tables import print_package

    print_package(done)


def _component(component: "Component") -> dict[str, Any]:
    return {
        "component": component.name, "version": component.version, "recipe": str(component.recipe),
        "artifacts": [{"architecture": a.architecture, "path": str(a.path), "bytes": a.bytes} for a in component.artifacts],
    }  # fmt: skip


def _tags(texts: tuple[str, ...]) -> dict[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not of the form KEY=VALUE", param_hint="--tag")
    return dict(text.split("=", 1) for text in texts)


@click.command(epilog=examples(
    "linewatch publish component --store store",
    "linewatch publish component --bucket plant-components --prefix models/ --region eu-central-1"))  # fmt: skip
@click.argument("component", type=EXISTING)
@click.option("--store", type=FOLDER, help="Local component store; cores deploy from its recipes/ and artifacts/.")
@click.option("--bucket", help="S3 bucket for the artifacts; the component version is then created in AWS.")
@click.option("--prefix", default="", help="Prefix of their keys.")
@click.option("--region", help="AWS region. [default: as boto3 finds it]")
@click.option("--endpoint", help="Address of the S3 endpoint. [default: AWS's own]")
@json_option
@guarded
def publish(
    component: Path, store: Path | None, bucket: str | None, prefix: str, region: str | None, endpoint: str | None, as_json: bool
) -> None:  # fmt: skip
    """Bring a packaged component to a local component store, or to AWS IoT Greengrass.

    \f

    Raises:
        click.UsageError: neither of --store and --bucket is given, or both are.
    """
    from linewatch.packager.publish import publish_to_aws, publish_to_store

    if (store is None) == (bucket is None):
        raise click.UsageError("give either --store or --bucket")
    done = publish_to_store(component, store) if store else publish_to_aws(component, bucket or "", prefix, *_clients(region, endpoint))
    if as_json:
        print_json({"component": done.name, "version": done.version, "where": done.where})
        return
    click.echo(f"component {done.name} {done.version}: {done.where}")
    if store is not None:
        click.echo(
            f"next: greengrass-cli deployment create --recipeDir {store}/recipes --artifactDir {store}/artifacts --merge {done.name}={done.version}"
        )


def _clients(region: str | None, endpoint: str | None) -> tuple[Any, Any]:
    """For S3 and Greengrass.

    Raises:
        LinewatchError: boto3 finds no region, or the endpoint is no address.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    session = boto3.Session(region_name=region)
    try:
        return session.client("s3", endpoint_url=endpoint), session.client("greengrassv2")
    except (BotoCoreError, ValueError) as error:  # no region; an endpoint that is no address
        raise LinewatchError(f"AWS cannot be called: {error}. Name --region, and an --endpoint such as http://127.0.0.1:8700") from None


@click.command("agent-component", epilog=examples(
    "linewatch agent-component --machine x86_64 --machine aarch64 -o agent-component",
    "linewatch agent-component --machine aarch64 --python cpython-3.11-aarch64-install_only.tar.gz -o agent-component"))  # fmt: skip
@click.option("--machine", "machines", required=True, multiple=True, type=click.Choice(["x86_64", "aarch64"]),
              help="Kind of device; both share one component when both are given.")
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for recipe and artifacts.")
@click.option("--name", default="linewatch.EdgeAgent", show_default=True, help="Component name; models depend on the default one.")
@click.option("--component-version", default="", help="Component version. [default: linewatch's own]")
@click.option("--wheel", type=EXISTING, help="Wheel of linewatch. [default: built from the source tree]")
@click.option("--python", "pythons", type=EXISTING, multiple=True,
              help="Relocatable Python 3.11 (.tar.gz with python/bin/python3.11) for devices without one; one for each --machine.")
@click.option("--location", default="", metavar="S3-URI", help="Folder that the artifacts will be published to.")
@json_option
@guarded
def agent_component(
    machines: tuple[str, ...], output: Path, name: str, component_version: str, wheel: Path | None, pythons: tuple[Path, ...],
    location: str, as_json: bool,
) -> None:  # fmt: skip
    """Make the agent's own Greengrass component, which installs without a network."""
    from linewatch.commands.tables import print_component
    from linewatch.packager.agent_component import write_agent_component

    check_folder(output)
    with StageProgress(quiet=as_json) as progress:
        done = write_agent_component(
            machines, output, name=name, component_version=component_version, wheel=wheel, pythons=pythons, location=location,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(_component(done))
        return
    print_component(done)
    click.echo(f"next: linewatch publish {output} --store STORE")


@click.group()
def recipe() -> None:
    """Recipes of Greengrass components, also of your own."""


@recipe.command("check", epilog=examples("linewatch recipe check recipes/camera-client.json", "linewatch recipe check component/recipes/*.json"))
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@json_option
@guarded
def recipe_check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check that both nuclei of Greengrass, the Java one and nucleus lite, would run a recipe."""
    from linewatch.packager.recipe import find_faults

    found = {}
    for file in files:
        with file.open("rb") as stream:
            found[str(file)] = find_faults(stream.read(_RECIPE_READ))
    if as_json:
        print_json([{"file": file, "faults": faults} for file, faults in found.items()])
    else:
        for name, faults in found.items():
            click.echo("\n  ".join([f"{name}:", *faults]) if faults else f"{name}: fits both nuclei")
    if any(found.values()):
        sys.exit(1)


@click.group()
def keys() -> None:
    """Keys that sign packages, so that devices run nobody else's."""


@keys.command("create", epilog=examples("linewatch keys create site.key", "linewatch package bundle -o component --sign site.key"))
@click.argument("file", type=FOLDER)
@json_option
@guarded
def keys_create(file: Path, as_json: bool) -> None:
    """Make a private key (FILE, for the build machine only) and its public key (FILE.pub, for every device).

    \f

    Raises:
        LinewatchError: one of the two files exists.
    """
    from linewatch.anomaly_model.files import replace_file
    from linewatch.anomaly_model.signature import create_key, key_id, private_pem, public_pem

    public = file.with_name(file.name + ".pub")
    for path in (file, public):
        if path.exists():
            raise LinewatchError(f"{path} exists; a key that is written over could sign nothing any more. Choose another name")
    key = create_key()
    replace_file(file, private_pem(key), mode=0o600)
    replace_file(public, public_pem(key.public_key()))
    if as_json:
        print_json({"key": key_id(key.public_key()), "private": str(file), "public": str(public)})
        return
    click.echo(f"key {key_id(key.public_key())}: private {file}, public {public}")
    click.echo(f"next: linewatch package BUNDLE -o component --sign {file}; on devices: linewatch agent --trusted-keys {public}")


@keys.command("verify", epilog=examples("linewatch keys verify component/bundle site.key.pub"))
@click.argument("bundle", type=EXISTING)
@click.argument("public", type=EXISTING)
@guarded
def keys_verify(bundle: Path, public: Path) -> None:
    """Check that a bundle is whole, and signed by a key of PUBLIC (a file, or a folder of .pub files)."""
    from linewatch.anomaly_model.bundle import open_bundle
    from linewatch.anomaly_model.signature import read_trusted_keys

    opened = open_bundle(bundle, trusted=read_trusted_keys(public))
    click.echo(f"{opened.manifest.served_as} version {opened.manifest.model.version}: signed, all {len(opened.manifest.files)} hashes right")


COMMANDS = [package, publish, agent_component, recipe, keys]
