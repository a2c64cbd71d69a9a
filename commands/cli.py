"""The `linewatch` command: thin parsing over the library.

Exit codes: 0 done; 1 refused or failed, the message says why; 2 wrong usage; 3 the agent does not answer;
4 with `detect --fail-on-anomaly`: an anomaly was found; 5 a model was trained that is not better than calling everything
anomalous; 130 stopped by SIGINT or SIGTERM; 141 nobody reads the output.
"""

import signal
import sys
from pathlib import Path

import click

from linewatch.commands.agent_commands import COMMANDS as AGENT_COMMANDS
from linewatch.commands.command_line import DIRECTORY, EXISTING, FILE, FOLDER, examples, guarded, json_option, print_json
from linewatch.commands.drawn.kinds import DEFAULT_KIND, KINDS
from linewatch.commands.package_commands import COMMANDS as PACKAGE_COMMANDS
from linewatch.commands.progress import StageProgress
from linewatch.commands.server_commands import COMMANDS as SERVER_COMMANDS
from linewatch.commands.system_errors import check_folder

WEAK_MODEL = 5
"""Exit code of a training whose model is not better than calling everything anomalous."""

side_option = click.option(
    "--side", type=click.IntRange(64, 1024),
    help="Shorter side of the model's input in pixels; larger sees finer defects and is slower. [default: from the masks]",
)  # fmt: skip
encoder_option = click.option(
    "--encoder", default="auto", show_default=True, type=click.Choice(["auto", "none", "lite0", "lite1", "lite2"]),
    help="Pretrained encoder: lite0 where it is installed, none, or one by name.",
)  # fmt: skip
effort_option = click.option(
    "--effort", default="standard", show_default=True, type=click.Choice(["quick", "standard", "thorough"]),
    help="quick leaves the U-Net out; thorough trains it three times as long.",
)  # fmt: skip
skip_option = click.option("--skip-unreadable", is_flag=True, help="Leave out pictures that are missing or cannot be read.")
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same result.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="linewatch", prog_name="linewatch")
def main() -> None:
    """Find defects on a production line: train, compile, deploy, answer."""


@main.command(epilog=examples("linewatch demo", "linewatch demo --data my-pictures --output out"))
@click.option(
    "--data", type=EXISTING, help="Pictures to use: train/ and test/, or normal/ and anomaly/. Default: drawn parts."
)
@click.option(
    "--output", type=FOLDER, default=Path("demo-output"), show_default=True, help="Folder for everything it makes."
)
@side_option
@encoder_option
@effort_option
@seed_option
@json_option
@guarded
def demo(data: Path | None, output: Path, side: int | None, encoder: str, effort: str, seed: int, as_json: bool) -> None:
    """Run the whole path and end with a table and a report."""
    from linewatch.commands.demo import run_demo
    from linewatch.commands.tables import print_demo
    from linewatch.training.options import EFFORTS, TrainingOptions

    options = TrainingOptions(side=side, seed=seed, net_steps=EFFORTS[effort], encoder=encoder)
    with StageProgress(quiet=as_json) as progress:
        result = run_demo(output, data, options, progress)
    if as_json:
        print_json(result.summary)
    else:
        print_demo(result, output)
    _warn_if_weak(result.weak, accepted=False)


def _warn_if_weak(warning: str, accepted: bool) -> None:
    if warning:
        click.echo(f"linewatch: WARNING: {warning}", err=True)
        if not accepted:
            sys.exit(WEAK_MODEL)


@main.command("demo-data", epilog=examples(
    "linewatch demo-data parts",
    "linewatch demo-data small --train 20 --test 10",
    "linewatch demo-data cloth --kind fabric --train 100 --test 60",
))  # fmt: skip
@click.argument("folder", type=FOLDER)
@click.option("--kind", default=DEFAULT_KIND, show_default=True, type=click.Choice(list(KINDS)), help="What is drawn; see above.")
@click.option(
    "--train", "train_count", default=60, show_default=True, type=click.IntRange(0), help="Training pictures a class."
)
@click.option("--test", "test_count", default=35, show_default=True, type=click.IntRange(0), help="Test pictures a class.")
@seed_option
@json_option
@guarded
def demo_data(folder: Path, kind: str, train_count: int, test_count: int, seed: int, as_json: bool) -> None:
    """Draw parts with and without defects, and exact masks.

    \b
    Kinds:
      machined  plates with scratches, dents and missing holes: easy
      brushed   metal with faint scratches across the grain, scuffs and pits
      fabric    woven, with faint stains and missing threads
      printed   labels with smears, missing strokes and ink spots
      moulded   housings with short shots and missing bosses, ribs or clips

    On good parts of the last four there are things that look like defects but are allowed: marks along the grain, folds and chalk at
    the edge, pencil in the inspection box, grease pencil on the pad.
    """
    from linewatch.commands.drawn.part_set import PartSet
    from linewatch.commands.drawn.writing import write_set

    parts = PartSet(train_count, train_count, test_count, test_count, seed, kind)
    with StageProgress(quiet=as_json) as progress:
        count = write_set(folder, parts, progress)
    if as_json:
        print_json({"folder": str(folder), "kind": kind, "pictures": count, "labels": parts.labels})
    else:
        click.echo(f"{count} pictures in {folder}; next: linewatch train {folder / 'train'} -o bundle")


@main.command(epilog=examples(
    "linewatch train pictures -o bundle",
    "linewatch train train.manifest --root /data -o bundle --test test.manifest",
    "linewatch train good-parts -o bundle --false-alarms 0.005",
    "linewatch train pictures -o bundle --resize --skip-unreadable",
    "linewatch train pictures -o bundle --encoder none",
    "linewatch train pictures -o bundle --suggest new-pictures",
    "linewatch train pictures -o bundle --backbone timm:resnet18 --backbone-weights resnet18.safetensors --budget-ms 80"))  # fmt: skip
@click.argument("data", type=EXISTING)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the bundle.")
@click.option("--results", type=FOLDER, help="Folder of report.html and the evaluation files. [default: OUTPUT-results]")
@click.option("--test", "test_data", type=EXISTING, help="Held-out pictures to evaluate on.")
@click.option(
    "--test-share", default=0.2, show_default=True, type=click.FloatRange(0, 0.5), help="Without --test: share held out."
)
@click.option("--root", type=EXISTING, help="Where a manifest's pictures lie; s3://BUCKET/KEY is looked for below it.")
@skip_option
@click.option("--resize", is_flag=True, help="Take pictures of several sizes: each is brought to the model's input, as the agent does it.")
@click.option("--groups", type=FILE, help="CSV of picture,group: pictures of one part are never divided.")
@click.option("--name", default="model", show_default=True, help="The model's name.")
@click.option("--model-version", default="1", show_default=True, help="The model's version, a number.")
@click.option(
    "--budget-ms", type=click.FloatRange(1),
    help="Most that the graph may cost, a picture on one core, counted from its operations. [default: 25, exceeded with a "
    "warning where only that keeps the accuracy]",
)  # fmt: skip
@click.option(
    "--false-alarms",
    default=0.01,
    show_default=True,
    type=click.FloatRange(1e-6, 0.5),
    help="With normal pictures only: share of them.",
)
@click.option(
    "--accept-weak", is_flag=True, help="Exit code 0 even if the model is not better than calling everything anomalous."
)
@encoder_option
@click.option(
    "--suggest", "suggest_from", type=DIRECTORY, metavar="FOLDER",
    help="Pictures without labels, to be put in the order in which to label them: suggestions.csv, and a section of the report.",
)  # fmt: skip
@click.option("--backbone", help="Another pretrained net beside it, timm:NAME or torchvision:NAME. [default: none]")
@click.option("--backbone-weights", type=FOLDER, help="Its weights, .safetensors or .pth, where there is no internet.")
@click.option("--backbone-licence", help="Licence of the weights, recorded in the bundle.")
@side_option
@effort_option
@seed_option
@json_option
@guarded
def train(
    data: Path, output: Path, results: Path | None, test_data: Path | None, test_share: float, root: Path | None,
    skip_unreadable: bool, resize: bool,
    groups: Path | None, name: str, model_version: str, budget_ms: float | None, false_alarms: float, accept_weak: bool,
    encoder: str, suggest_from: Path | None, backbone: str | None, backbone_weights: Path | None, backbone_licence: str | None,
    side: int | None, effort: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train a model on labelled pictures and write a bundle.

    DATA is a folder with normal/, optional anomaly/ and masks/, or a manifest of JSON Lines. A run that was stopped goes on
    where it was when the same command is given again.

    \f

    Raises:
        click.UsageError: --backbone-weights is given without --backbone.
    """
    from linewatch.training.data.reading import read_dataset, read_groups, read_unlabelled
    from linewatch.training.delivery import write_deliverables
    from linewatch.training.families.backbone import load_backbone
    from linewatch.training.options import EFFORTS, TrainingOptions
    from linewatch.training.suggestion.suggest import FILE_NAME, Suggestions, suggest
    from linewatch.training.train import Trained
    from linewatch.training.train import train as run_training

    if backbone_weights and not backbone:
        raise click.UsageError("--backbone-weights needs --backbone, such as --backbone timm:resnet18")
    check_folder(output)
    results = results or output.with_name(f"{output.name}-results")
    check_folder(results)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    unlabelled = read_unlabelled(suggest_from) if suggest_from else ()
    suggestions: Suggestions | None = None
    with StageProgress(quiet=as_json) as progress:
        test = read_dataset(test_data, root, leave_out=skip_unreadable) if test_data else None
        learn = read_dataset(data, root, leave_out=skip_unreadable)
        if groups:
            learn = read_groups(groups, learn)
        net = load_backbone(backbone, backbone_weights, backbone_licence) if backbone else None
        options = TrainingOptions(name, model_version, side, seed, budget_ms, test_share, false_alarms, EFFORTS[effort], encoder, net,
                                  leave_out=skip_unreadable, resize=resize)  # fmt: skip

        def deliver(done: Trained) -> None:
            nonlocal suggestions
            if unlabelled:
                suggestions = suggest(done.bundle, unlabelled, learn.samples, encoder, progress)
            write_deliverables(results, done, learn.source, progress, suggestions=suggestions)

        trained = run_training(learn, output, options, test, progress, deliver)
    if as_json:
        print_json({
            "bundle": str(output), "results": str(results), "training": trained.bundle.manifest.training,
            "evaluation": trained.bundle.manifest.evaluation, "suggestions": suggestions.as_json() if suggestions else None,
        })  # fmt: skip
    else:
        from linewatch.commands.tables import print_suggestions, print_training

        print_training(trained, output, results)
        if suggestions:
            print_suggestions(suggestions, results / FILE_NAME)
    _warn_if_weak(trained.weak, accept_weak)


@main.command(epilog=examples(
    "linewatch recalibrate bundle this-weeks-pictures -o bundle-new",
    "linewatch recalibrate bundle good-parts -o bundle-new --false-alarms 0.002"))  # fmt: skip
@click.argument("bundle", type=EXISTING)
@click.argument("data", type=EXISTING)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the new bundle.")
@click.option("--root", type=EXISTING, help="Where a manifest's pictures lie.")
@skip_option
@click.option(
    "--false-alarms",
    default=0.01,
    show_default=True,
    type=click.FloatRange(1e-6, 0.5),
    help="With normal pictures only: share of them.",
)
@json_option
@guarded
def recalibrate(
    bundle: Path, data: Path, output: Path, root: Path | None, skip_unreadable: bool, false_alarms: float, as_json: bool
) -> None:  # fmt: skip
    """Choose a new threshold from pictures of the line, without training.

    With both classes by the best F1, with normal pictures only by the false-alarm rate. Package the new bundle afterwards.
    """
    from linewatch.training.data.reading import read_dataset
    from linewatch.training.data.survey import survey
    from linewatch.training.recalibrate import recalibrate as run_recalibration

    check_folder(output)
    with StageProgress(quiet=as_json) as progress:
        pictures = survey(read_dataset(data, root, leave_out=skip_unreadable), leave_out=skip_unreadable, resize=True, progress=progress)
        done = run_recalibration(bundle, pictures, output, false_alarms, progress)
    decision = done.bundle.manifest.decision
    if as_json:
        print_json({
            "bundle": str(output), "threshold_before": done.before.threshold, "threshold": decision.threshold,
            "slope": decision.slope, "midpoint": decision.midpoint, "floor": decision.floor, "ceiling": decision.ceiling,
            "evaluation": done.bundle.manifest.evaluation,
        })  # fmt: skip
        return
    from linewatch.commands.tables import print_metrics

    click.echo(
        f"threshold {done.before.threshold:.4f} -> {decision.threshold:.4f}; bundle: {output}; next: linewatch package {output} -o component"
    )
    print_metrics("on these pictures (they chose the threshold)", done.bundle.manifest.evaluation)


@main.command(epilog=examples(
    "linewatch doctor", "linewatch doctor component/bundle --trusted-keys keys",
    "linewatch doctor --models component --socket unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock",
    "linewatch doctor component/bundle --record /var/lib/linewatch/measured"))  # fmt: skip
@click.argument("bundle", type=EXISTING, required=False)
@click.option("--trusted-keys", type=EXISTING, help="Public key, or folder of public keys, that must have signed the bundle.")
@click.option("--record", type=FOLDER, help="Folder to record the fastest runtime in, for the agent's setting measured.")
@click.option("--models", type=DIRECTORY, help="An agent's models folder, of which each bundle is checked.")
@click.option("--socket", "address", help="Socket of an agent: may this user call, and does it answer?")
@json_option
@guarded
def doctor(
    bundle: Path | None, trusted_keys: Path | None, record: Path | None, models: Path | None, address: str | None, as_json: bool
) -> None:
    """Check this machine and, if given, an agent's socket, and whether bundles give their golden answers on every runtime here, how fast."""
    from linewatch.commands.checkup import examine

    findings = examine(bundle, trusted_keys, record, models=models, address=address)
    if as_json:
        print_json([{"check": f.check, "ok": f.ok, "found": f.found} for f in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.found}")
    if not all(f.ok for f in findings):
        sys.exit(1)


for command in [*AGENT_COMMANDS, *PACKAGE_COMMANDS, *SERVER_COMMANDS]:
    main.add_command(command)
