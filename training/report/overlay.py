"""Pictures for reports: anomaly maps over the picture, and pictures inside an HTML file."""

from base64 import b64encode
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.anomaly_model.picture import Rgb
from linewatch.training.arrays import F32

WIDTH = 288


def heatmap(picture: Rgb, anomaly_map: F32) -> Rgb:
    """A picture (H x W x 3) in grey with its anomaly map (h x w, 0 to 1) over it, yellow to red where the map is over 0.1."""
    height, width = picture.shape[:2]
    small = Image.fromarray(anomaly_map.astype(np.float32))
    strength = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)[..., None]
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) * 0.8
    color = np.concatenate([np.full_like(strength, 255.0), 220 * (1 - strength), np.zeros_like(strength)], axis=2)
    share = 0.75 * np.clip((strength - 0.1) / 0.4, 0, 1)
    blended: npt.NDArray[np.floating] = grey * (1 - share) + color * share
    return blended.clip(0, 255).astype(np.uint8)


def data_url(picture: Rgb, kind: str) -> str:
    """A picture, `JPEG` or `PNG` (for masks: no smoothing), at most 288 pixels wide, as an address that holds it."""
    image = Image.fromarray(picture)
    width = min(WIDTH, image.width)
    size = (width, max(1, round(image.height * width / image.width)))
    image = image.resize(size, Image.Resampling.NEAREST if kind == "PNG" else Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{b64encode(buffer.getvalue()).decode()}"
