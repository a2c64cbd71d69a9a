"""A plant's folder as `lifecycle.py` wants it: small pictures of drawn parts with a manifest, and test pictures."""

import json
import shutil
from pathlib import Path

from PIL import Image

BUCKET = "line-7"
SIZE = (176, 128)
"""Width and height of the pictures. What tests do with a plant takes its time by the pixel, emulated ARM64 code above all; and with the
size that the model of tests/conftest.py has inside, both models have the same layers, so that schedules are measured once."""


def write_plant(parts: Path, folder: Path, per_class: int = 12, tests: int = 3) -> None:
    """The first of a drawn set's pictures, made smaller, with a manifest as Ground Truth would write it.

    Args:
        parts: the set, see `linewatch.commands.drawn.writing.write_set`.
        folder: to write to.
        per_class: training pictures of each class.
        tests: test pictures of each class.
    """
    colors = json.loads((parts / "train" / "labels.json").read_text())
    map_ = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}}
    map_ |= {str(i + 1): {"class-name": n, "hex-color": c, "confidence": 0.0} for i, (n, c) in enumerate(colors.items())}
    for name in ("pictures", "masks", "test"):
        (folder / name).mkdir(parents=True)
    lines = []
    for kind in ("normal", "anomaly"):
        for path in sorted((parts / "train" / kind).iterdir())[:per_class]:
            _write_small(path, folder / "pictures" / path.name, Image.Resampling.BOX)
            line = {
                "source-ref": f"s3://{BUCKET}/pictures/{path.name}", "anomaly-label": int(kind == "anomaly"),
                "anomaly-label-metadata": {
                    "class-name": kind, "type": "groundtruth/image-classification", "human-annotated": "yes", "confidence": 1,
                    "creation-date": "2026-01-02T03:04:05.678", "job-name": "labeling-job/anomaly-label",
                },
            }  # fmt: skip
            mask = parts / "train" / "masks" / f"{path.stem}.png"
            if mask.exists():
                _write_small(mask, folder / "masks" / mask.name, Image.Resampling.NEAREST)
                line |= {
                    "anomaly-mask-ref": f"s3://{BUCKET}/masks/{mask.name}",
                    "anomaly-mask-ref-metadata": {
                        "internal-color-map": map_, "type": "groundtruth/semantic-segmentation", "human-annotated": "yes",
                        "creation-date": "Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)", "job-name": "labeling-job/mask",
                    },
                }  # fmt: skip
            lines.append(json.dumps(line))
    (folder / "train.manifest").write_text("\n".join(lines) + "\n")
    for kind in ("normal", "anomaly"):
        for path in sorted((parts / "test" / kind).iterdir())[:tests]:
            _write_small(path, folder / "test" / f"{kind}-{path.name}", Image.Resampling.BOX)


def _write_small(source: Path, target: Path, how: Image.Resampling) -> None:
    with Image.open(source) as image:
        image.resize(SIZE, how).save(target)


def write_cookies(source: Path, folder: Path) -> None:
    """The published cookies, copied, with their manifest as their upload script would write it, and their test pictures."""
    for name in ("training-images", "mask-images"):
        shutil.copytree(source / "dataset-files" / name, folder / name)
    shutil.copytree(source / "test-images", folder / "test")
    lines = []
    for text in (source / "dataset-files" / "manifests" / "template.manifest").read_text().splitlines():
        if text.strip():
            line = json.loads(text)
            for key in ("source-ref", "anomaly-mask-ref"):
                if key in line:
                    line[key] = f"s3://{BUCKET}/{line[key]}"
            lines.append(json.dumps(line))
    (folder / "train.manifest").write_text("\n".join(lines) + "\n")
