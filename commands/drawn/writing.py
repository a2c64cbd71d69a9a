"""Writes a drawn set as people keep labelled pictures: folders, masks, and a manifest."""

from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.commands.drawn.part_set import Part, PartSet


def write_set(folder: Path, parts: PartSet, progress: ProgressCallback = no_progress) -> int:
    """Write the set as folders, with a manifest beside each split; returns the number of pictures.

    FOLDER/train and FOLDER/test each hold normal/, anomaly/, masks/, labels.json and data.manifest.
    """
    labels = parts.labels
    colors = np.array([[255, 255, 255], *(list(bytes.fromhex(c[1:])) for c in labels.values())], np.uint8)
    lines: dict[str, list[bytes]] = {"train": [], "test": []}
    count = 0
    for part in parts:
        kind = "anomaly" if part.is_anomaly else "normal"
        files = {f"{kind}/{part.name}.png": Image.fromarray(part.picture)}
        if part.is_anomaly:
            files[f"masks/{part.name}.png"] = Image.fromarray(colors[part.labels])
        for name, image in files.items():
            buffer = BytesIO()
            image.save(buffer, "PNG", optimize=False, compress_level=6)
            target = folder / part.split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(buffer.getvalue())
        lines[part.split].append(msgspec.json.encode(_manifest_line(part, kind, labels)))
        count += 1
        progress("drawing parts", count, len(parts))
    for split, entries in lines.items():
        if entries:
            replace_file(folder / split / "labels.json", msgspec.json.format(msgspec.json.encode(labels)) + b"\n")
            replace_file(folder / split / "data.manifest", b"\n".join(entries) + b"\n")
    return count


def _manifest_line(part: Part, kind: str, labels: dict[str, str]) -> dict[str, object]:
    line: dict[str, object] = {
        "source-ref": f"{kind}/{part.name}.png",
        "anomaly-label": int(part.is_anomaly),
        "anomaly-label-metadata": {
            "class-name": kind, "human-annotated": "no", "type": "groundtruth/image-classification", "confidence": 1,
        },
    }  # fmt: skip
    if part.is_anomaly:
        present = [name for i, name in enumerate(labels) if (part.labels == i + 1).any()]
        colors = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}}
        for i, name in enumerate(present):
            colors[str(i + 1)] = {"class-name": name, "hex-color": labels[name], "confidence": 1.0}
        line["anomaly-mask-ref"] = f"masks/{part.name}.png"
        line["anomaly-mask-ref-metadata"] = {
            "internal-color-map": colors, "human-annotated": "no", "type": "groundtruth/semantic-segmentation",
        }  # fmt: skip
    return line
