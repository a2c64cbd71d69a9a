"""A plant's folder as `lifecycle.py` wants it: drawn parts with a manifest, and test pictures."""

import json
import shutil
from pathlib import Path

from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set

BUCKET = "line-7"


def write_plant(folder: Path, per_class: int = 12, tests: int = 3) -> None:
    """Draw a set and write its manifest as Ground Truth would."""
    raw = folder.with_name(f"{folder.name}-raw")
    write_set(raw, PartSet(per_class, per_class, tests, tests, seed=3))
    colors = json.loads((raw / "train" / "labels.json").read_text())
    map_ = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}}
    map_ |= {str(i + 1): {"class-name": n, "hex-color": c, "confidence": 0.0} for i, (n, c) in enumerate(colors.items())}
    for name in ("pictures", "masks", "test"):
        (folder / name).mkdir(parents=True)
    lines = []
    for kind in ("normal", "anomaly"):
        for path in sorted((raw / "train" / kind).iterdir()):
            shutil.copy(path, folder / "pictures" / path.name)
            line = {
                "source-ref": f"s3://{BUCKET}/pictures/{path.name}", "anomaly-label": int(kind == "anomaly"),
                "anomaly-label-metadata": {
                    "class-name": kind, "type": "groundtruth/image-classification", "human-annotated": "yes", "confidence": 1,
                    "creation-date": "2026-01-02T03:04:05.678", "job-name": "labeling-job/anomaly-label",
                },
            }  # fmt: skip
            mask = raw / "train" / "masks" / f"{path.stem}.png"
            if mask.exists():
                shutil.copy(mask, folder / "masks" / mask.name)
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
        for path in sorted((raw / "test" / kind).iterdir()):
            shutil.copy(path, folder / "test" / f"{kind}-{path.name}")


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
