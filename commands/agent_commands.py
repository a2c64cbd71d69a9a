"""The commands of the device: agent, detect, top."""

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.commands.command_line import EXISTING, FOLDER, examples, guarded, json_option, print_json

_OF_ONE_PICTURE = ("INVALID_ARGUMENT", "INTERNAL", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""What the agent says of a picture; after anything else the next one would fare no better."""
socket_option = click.option("--socket", "address", default=None, help="Address of the agent, unix:///PATH.")


@click.command(epilog=examples(
    "linewatch agent --models component",
    "linewatch agent --models models --socket unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock --socket-group ggc_group"))  # fmt: skip
@click.option("--trusted-keys", default=None, help="Public key, or folder of public keys, that models must be signed by.")
@click.option("--models", default=None, help="Folder with bundles or registrations. [default: models]")
@click.option(
    "--socket", default=None, help="Address to listen on. [default: unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock]"
)
@click.option("--socket-mode", default=None, help="Permission bits of the socket. [default: 0660]")
@click.option("--socket-group", default=None, help="Group of the socket, such as ggc_group.")
@click.option("--runtime", default=None, type=click.Choice(["auto", "tvm", "onnxruntime"]), help="[default: auto]")
@click.option("--threads", default=None, type=int, help="CPU threads for one picture. [default: 1]")
@click.option("--queue", default=None, type=int, help="Calls that may wait for one model. [default: 8]")
@click.option("--concurrency", default=None, type=int, help="Pictures of one model that are inspected at a time. [default: 1]")
@click.option("--metrics", default=None, help="HOST:PORT for Prometheus, such as 127.0.0.1:9464.")
@click.option("--settings", "settings_file", type=EXISTING, help="TOML file with settings.")
@guarded
def agent(settings_file: Path | None, **flags: Any) -> None:
    """Run the edge agent until SIGTERM."""
    from linewatch.edge_agent.server import serve
    from linewatch.edge_agent.settings import load_settings

    serve(load_settings(settings_file, flags=flags))


@click.command(epilog=examples("linewatch detect part.png --model model", "linewatch detect *.png --model model-phone --json"))
@click.argument("images", type=EXISTING, nargs=-1, required=True)
@click.option("--model", required=True, help="Name of an installed model, as package printed it; started if it is stopped.")
@socket_option
@click.option("--bytes", "by_bytes", is_flag=True, help="Send pictures as bytes instead of through shared memory.")
@click.option("--mask", "mask_path", type=FOLDER, help="Write the mask of the (single) picture as PNG.")
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 4 when any picture is anomalous.")
@json_option
@guarded
def detect(
    images: tuple[Path, ...], model: str, address: str | None, by_bytes: bool, mask_path: Path | None, fail_on_anomaly: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Ask a running agent about pictures.

    \f

    Raises:
        click.UsageError: --mask is given with none or several pictures.
        AgentCallError: the agent refused the call for another reason than the picture.
        LinewatchError: a picture could not be judged, or --mask is given for a model that makes none.
    """  # noqa: DOC501 - a PictureError is counted, not raised
    from PIL import Image

    from linewatch.anomaly_model.errors import PictureError
    from linewatch.anomaly_model.picture import read_picture
    from linewatch.edge_agent.client import AgentCallError, AgentClient
    from linewatch.edge_agent.settings import DEFAULT_SOCKET

    if mask_path and len(images) != 1:
        raise click.UsageError("--mask needs exactly one picture")
    anomalous, failed = False, 0
    with AgentClient(address or DEFAULT_SOCKET) as client:
        client.start(model)
        for path in images:
            try:
                result, mask = client.detect(read_picture(path), model, "bytes" if by_bytes else "shared-memory")
            except (PictureError, AgentCallError) as error:
                if isinstance(error, AgentCallError) and error.code not in _OF_ONE_PICTURE:
                    raise
                failed += 1
                said = str(error) if str(path) in str(error) else f"{path}: {error}"
                click.echo(f"linewatch: {said}", err=True)
                if as_json:
                    click.echo(msgspec.json.encode({"file": str(path), "error": str(error)}))
                continue
            anomalous |= result.is_anomalous
            areas = {a.name: round(a.pixel_anomaly.total_percentage_area, 6) for a in result.anomalies}
            if as_json:
                click.echo(msgspec.json.encode({
                    "file": str(path), "is_anomalous": result.is_anomalous, "confidence": round(result.confidence, 6),
                    "score": round(result.anomaly_score, 6), "threshold": round(result.anomaly_threshold, 6), "areas": areas,
                }))  # fmt: skip
            else:
                answer = "ANOMALY" if result.is_anomalous else "normal "
                found = ", ".join(f"{n} {share:.1%}" for n, share in areas.items() if n != "background")
                click.echo(f"{answer}  {result.confidence:.3f}  {path}  {found}".rstrip())
            if mask_path and mask is None:
                raise LinewatchError(f"model {model!r} was trained without masks and makes none")
            if mask_path and mask is not None:
                Image.fromarray(mask).save(mask_path, "PNG")
    if failed:
        raise LinewatchError(f"{failed} of {len(images)} pictures could not be judged; see above")
    if fail_on_anomaly and anomalous:
        sys.exit(4)


@click.command(epilog=examples("linewatch top", "linewatch top --json --interval 10"))
@socket_option
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Show one interval and end, as also when not on a terminal.")
@json_option
@guarded
def top(address: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show what a running agent does: rates, latency, queues, memory and drift of its models."""
    from rich.console import Console
    from rich.live import Live

    from linewatch.commands.top import parse, rows, table
    from linewatch.edge_agent.client import AgentClient
    from linewatch.edge_agent.settings import DEFAULT_SOCKET

    console = Console() if sys.stdout.isatty() else Console(width=140)
    with AgentClient(address or DEFAULT_SOCKET) as client:
        before = parse(client.metrics())
        time.sleep(interval)
        now = parse(client.metrics())
        if as_json:
            print_json([msgspec.to_builtins(row) for row in rows(before, now, interval)])
            return
        shown = table(rows(before, now, interval), now.get("linewatch_resident_bytes", process="agent") / 2**20)
        if once or not console.is_terminal:
            console.print(shown)
            return
        with Live(shown, console=console, screen=True) as live:
            while True:
                time.sleep(interval)
                before, now = now, parse(client.metrics())
                live.update(table(rows(before, now, interval), now.get("linewatch_resident_bytes", process="agent") / 2**20))


COMMANDS = (agent, detect, top)
