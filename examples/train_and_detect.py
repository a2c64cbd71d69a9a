"""Train a model on labelled pictures, look at one part with it, and compile it for this machine.

    python examples/train_and_detect.py my-pictures part.png

`my-pictures` holds the folders normal/ and anomaly/. Needs the extras train, packager and agent.
"""

import platform
import sys
from pathlib import Path

from linewatch import (
    Bundle,
    Detection,
    TrainingOptions,
    detect,
    find_target,
    open_runtime,
    package,
    read_dataset,
    read_picture,
    train,
)


def train_model(pictures: Path, output: Path) -> Bundle:
    """A model trained on a folder of pictures, with its figures printed."""
    trained = train(read_dataset(pictures), output, TrainingOptions(name="parts"))
    for warning in trained.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if trained.evaluation is not None:
        print(f"F1 on pictures held out: {trained.evaluation.metrics.f1:.3f}")
    return trained.bundle


def look_at(part: Path, bundle: Bundle) -> Detection:
    """What the model says of one picture, in this process."""
    return detect(read_picture(part), open_runtime(bundle), bundle.manifest)


def main() -> None:
    """Train, look, compile."""
    pictures, part = map(Path, sys.argv[1:])
    bundle = train_model(pictures, Path("bundle"))
    found = look_at(part, bundle)
    print(f"{part}: {'anomalous' if found.is_anomalous else 'normal'}, confidence {found.confidence:.2f}")
    packed = package(bundle, find_target(f"{platform.machine()}-cpu"), Path("component"))
    print(f"component {packed.component.name} {packed.component.version} in component/")


if __name__ == "__main__":
    main()
