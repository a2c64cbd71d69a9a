"""The commands of the server: serve, credentials, jobs, client, backup, restore."""

import getpass
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from linewatch.commands.command_line import FILE, FOLDER, examples, guarded, json_option, print_json

data_option = click.option("--data", default=None, help="Folder of everything that the server keeps. [default: linewatch-data]")
database_option = click.option("--database", default=None, help="sqlite:///PATH or postgresql://... [default: in the data folder]")
settings_option = click.option("--settings", "settings_file", type=FILE, help="TOML file with settings.")


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """What commands beside `serve` are told of the server: where its data lies."""
    return data_option(database_option(settings_option(command)))


@click.command(epilog=examples(
    "linewatch serve --anonymous",
    "linewatch serve --host 0.0.0.0 --data /var/lib/linewatch --tls-certificate server.pem --tls-key server.key",
    "linewatch serve --database postgresql://linewatch@db/linewatch --jobs-scheduler tcp://dask:8786"))  # fmt: skip
@data_option
@database_option
@click.option("--host", default=None, help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=None, type=int, help="Port to listen on; 0 takes a free one. [default: 8700]")
@click.option("--tls-certificate", default=None, help="PEM file; with it the server speaks HTTPS only.")
@click.option("--tls-key", default=None, help="PEM file of its private key.")
@click.option("--anonymous", is_flag=True, default=None, help="Answer unsigned calls too; on a loopback address only.")
@click.option("--objects", default=None, help="Folder of the buckets, or s3. [default: objects/ in the data folder]")
@click.option("--objects-endpoint", default=None, help="Address of the S3 endpoint. [default: AWS's own]")
@click.option("--jobs-scheduler", default=None, help="Address of a dask scheduler. [default: jobs run on this machine]")
@settings_option
@guarded
def serve(settings_file: Path | None, **flags: Any) -> None:
    """Run the server with the HTTP API of Amazon Lookout for Vision until SIGTERM."""
    from linewatch.control_plane.server import serve as run_server
    from linewatch.control_plane.settings import load_settings

    run_server(load_settings(settings_file, flags=flags))


@click.group()
def credentials() -> None:
    """Access keys of the server."""


def _registry(settings_file: Path | None, **flags: Any) -> tuple[Any, Any]:
    from linewatch.control_plane.access.credentials import MasterKey
    from linewatch.control_plane.access.registry import Registry
    from linewatch.control_plane.server import open_store
    from linewatch.control_plane.settings import load_settings

    settings = load_settings(settings_file, flags=flags)
    return Registry(open_store(settings), MasterKey.open(settings.folder)), settings


@credentials.command("create", epilog=examples(
    "linewatch credentials create --name line-7 --role line",
    "linewatch credentials create --name ci --policy policy.json --hours 12 --json"))  # fmt: skip
@click.option("--name", default="default", show_default=True, help="For people.")
@click.option("--role", default="full", show_default=True, type=click.Choice(["full", "read-only", "line"]),
              help="line: describe, list, and DetectAnomalies.")  # fmt: skip
@click.option("--policy", "policy_file", type=FILE, help="JSON document of statements, instead of a role.")
@click.option("--account", default=None, help="Account, twelve digits. [default: 000000000000]")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Make a temporary credential with a session token.")
@data_options
@json_option
@guarded
def create_credential(
    name: str, role: str, policy_file: Path | None, hours: float | None, as_json: bool, **flags: Any
) -> None:  # fmt: skip
    """Make an access key and print its secret, once."""
    from linewatch.control_plane.access.policy import ROLES, parse_policy

    policy = parse_policy(policy_file.read_bytes()) if policy_file else ROLES[role]
    registry, settings = _registry(**flags)
    made = registry.create(settings.account, name, policy, hours)
    if as_json:
        print_json(made)
        return
    for key, value in made.items():
        click.echo(f"export AWS_{key.upper()}={value}")


@credentials.command("list", epilog=examples("linewatch credentials list --data /var/lib/linewatch"))
@data_options
@json_option
@guarded
def list_credentials(as_json: bool, **flags: Any) -> None:
    """List access keys, without their secrets."""
    registry, _ = _registry(**flags)
    rows = registry.list()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        actions = ", ".join(str(s["Action"]) for s in row["policy"]["Statement"])
        click.echo(f"{row['access_key']}  {row['account']}  {row['name']}  {actions[:80]}")


@credentials.command("delete", epilog=examples("linewatch credentials delete AKIAIOSFODNN7EXAMPLE"))
@click.argument("access_key")
@data_options
@guarded
def delete_credential(access_key: str, **flags: Any) -> None:
    """Remove an access key: its calls are refused from now on."""
    registry, _ = _registry(**flags)
    registry.delete(access_key)
    click.echo(f"{access_key} is removed")


@click.group()
def jobs() -> None:
    """Trainings, packagings and other work of the server."""


def _job_admin(settings_file: Path | None, **flags: Any) -> Any:
    from linewatch.anomaly_model.settings import SettingsError
    from linewatch.control_plane.jobs.admin import JobAdmin
    from linewatch.control_plane.server import open_store
    from linewatch.control_plane.settings import load_settings

    settings = load_settings(settings_file, flags=flags)
    if not settings.folder.is_dir():
        raise SettingsError(f"there is no data folder {settings.folder}; name the server's with --data")
    return JobAdmin(open_store(settings))


def _line(job: dict[str, Any]) -> str:
    created = datetime.fromtimestamp(job["created"], UTC).strftime("%Y-%m-%d %H:%M")
    return f"{job['job']:>6}  {job['kind']:<12}  {job['state']:<9}  {created}  {job['subject']}  {job['message'][:100]}".rstrip()


@jobs.command("list", epilog=examples("linewatch jobs list --data /var/lib/linewatch", "linewatch jobs list --all --json"))
@click.option("--all", "everything", is_flag=True, help="Finished jobs too.")
@data_options
@json_option
@guarded
def list_jobs(everything: bool, as_json: bool, **flags: Any) -> None:
    """List jobs that wait or run."""
    rows = _job_admin(**flags).list(everything)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(_line(row))


@jobs.command("show", epilog=examples("linewatch jobs show 17 --data /var/lib/linewatch"))
@click.argument("job", type=click.IntRange(1, 2**63 - 1))
@data_options
@json_option
@guarded
def show_job(job: int, as_json: bool, **flags: Any) -> None:
    """Show a job's steps and the end of its log."""
    found = _job_admin(**flags).show(job)
    if as_json:
        print_json(found)
        return
    click.echo(_line(found))
    for step in found["steps"]:
        at = datetime.fromtimestamp(step["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"{at}  {step['from']} -> {step['to']}  {step['note']}".rstrip())
    for line in found["log_end"]:
        click.echo(f"    {line}")


@jobs.command("cancel", epilog=examples("linewatch jobs cancel 17 --data /var/lib/linewatch"))
@click.argument("job", type=click.IntRange(1, 2**63 - 1))
@data_options
@json_option
@guarded
def cancel_job(job: int, as_json: bool, **flags: Any) -> None:
    """Cancel a training or packaging. A running server ends its process within seconds."""
    found = _job_admin(**flags).cancel(job, f"{getpass.getuser()} with linewatch jobs cancel")
    if as_json:
        print_json(found)
    else:
        click.echo(_line(found))


@click.group()
def client() -> None:
    """What new releases of boto3 and the AWS CLI need."""


@client.command("install", epilog=examples("linewatch client install", "linewatch client install --folder aws-models"))
@click.option("--folder", type=FOLDER, help="Folder of models. [default: ~/.aws/models]")
@click.option("--endpoint", default="http://127.0.0.1:8700", show_default=True, help="Address of the server, for what is printed.")
@json_option
@guarded
def install_client(folder: Path | None, endpoint: str, as_json: bool) -> None:
    """Give boto3 and the AWS CLI the `lookoutvision` service again."""
    from linewatch.control_plane.client_files import install

    done = install(folder)
    lines = [f"export AWS_DATA_PATH={done.folder.absolute()}"] if done.needs_path else []
    lines += [f"export AWS_ENDPOINT_URL_{service}={endpoint}" for service in ("LOOKOUTVISION", "REKOGNITION", "S3")]
    if as_json:
        print_json({"folder": str(done.folder), "files": [str(p) for p in done.files], "configuration": lines})
        return
    click.echo(f"{len(done.files)} files in {done.folder}. Configure your programs with:")
    for line in lines:
        click.echo(line)


@click.command(epilog=examples("linewatch backup monday.tar --data /var/lib/linewatch"))
@click.argument("file", type=FOLDER)
@data_options
@guarded
def backup(file: Path, settings_file: Path | None, **flags: Any) -> None:
    """Write database, models and master key to FILE; the server may run. Copy the buckets as files."""
    from linewatch.control_plane.backup import back_up
    from linewatch.control_plane.settings import load_settings

    back_up(load_settings(settings_file, flags=flags), file)
    click.echo(f"{file}: {file.stat().st_size} bytes. Keep it secret: every access key's secret derives from it")


@click.command(epilog=examples("linewatch restore monday.tar --data /var/lib/linewatch-new"))
@click.argument("file", type=FILE)
@data_options
@guarded
def restore(file: Path, settings_file: Path | None, **flags: Any) -> None:
    """Put a backup into an empty data folder and an empty database."""
    from linewatch.control_plane.backup import restore as run_restore
    from linewatch.control_plane.settings import load_settings

    settings = load_settings(settings_file, flags=flags)
    run_restore(settings, file)
    click.echo(f"restored to {settings.folder}; next: linewatch serve --data {settings.folder}")


COMMANDS = (serve, credentials, jobs, client, backup, restore)
