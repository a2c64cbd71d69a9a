"""The part `fit` of check_gpu.py: `python -P scripts/gpu_fit.py JSON` fits what torch trains and prints one JSON object.

JSON holds `pictures` and `steps`. The device is what training takes: CUDA where there is one, so that CUDA_VISIBLE_DEVICES= gives the processor.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 128
"""Shorter side in pixels of the pictures that are learnt from."""

Json = dict[str, Any]


def check_fit(pictures: int, steps: int) -> Json:
    """Fit the nets that torch trains, on the device that training takes, and see how well they tell parts apart.

    Args:
        pictures: drawn for training, of each class; half as many for testing.
        steps: of the U-Net.
    """
    import torch

    from linewatch.anomaly_model.progress import no_progress
    from linewatch.commands.drawn.part_set import PartSet
    from linewatch.commands.drawn.writing import write_set
    from linewatch.training.data.pictures import PictureStore, load_pictures
    from linewatch.training.data.reading import read_dataset
    from linewatch.training.families.torch_setup import device
    from linewatch.training.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="linewatch-gpu-") as name:
        folder = Path(name)
        write_set(folder / "parts", PartSet(pictures, pictures, (pictures + 1) // 2, (pictures + 1) // 2, seed=5))

        def store(split: str) -> PictureStore:
            (folder / split).mkdir()
            return load_pictures(read_dataset(folder / "parts" / split), SIDE, Workspace(folder / split), no_progress)

        return {
            "device": str(device()), "torch": torch.__version__, "unet": _fit_unet(store("train"), store("test"), steps, folder),
            "discriminator": _fit_discriminator(), "problems": [],
        }  # fmt: skip


class _StopError(Exception):
    """Ends a fit half-way."""


def _fit_unet(learn: Any, test: Any, steps: int, folder: Path) -> Json:
    """A fit as a whole, and another that is stopped half-way and goes on."""
    from linewatch.anomaly_model.progress import no_progress
    from linewatch.training.families import unet_training
    from linewatch.training.workspace import Workspace

    def fit(place: str, count: int, progress: Callable[[str, int, int], None] = no_progress) -> Any:
        (folder / place).mkdir(exist_ok=True)
        family = unet_training.UNetFamily(learn, count, 0, Workspace(folder / place), progress)
        return family.fit(np.ones(len(learn), bool), "gpu")

    def stop(_what: str, done: int, _total: int) -> None:
        if done == steps // 2:
            raise _StopError

    fit("first", 2)  # starts CUDA, which is no part of a step
    begun = time.perf_counter()
    whole = fit("whole", steps)
    seconds = time.perf_counter() - begun
    unet_training.CHECKPOINT_SECONDS = 0.0
    with suppress(_StopError):
        fit("stopped", steps, stop)
    resumed = fit("stopped", steps)
    scale = float(np.abs(whole.out[0]).max())
    return {
        "steps": steps, "seconds": round(seconds, 2), "steps_per_second": round(steps / seconds, 1), "roc_auc": _tells_apart(whole, test),
        "resumed_roc_auc": _tells_apart(resumed, test), "resumed_difference": float(np.abs(whole.out[0] - resumed.out[0]).max()) / scale,
    }  # fmt: skip


def _tells_apart(fitted: Any, test: Any) -> float:
    """Area under the ROC curve of a U-Net's score in its graph."""
    from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
    from linewatch.training.graph.color import write_color
    from linewatch.training.graph.writer import GraphWriter
    from linewatch.training.metrics import roc_auc

    g = GraphWriter(test.spec.height, test.spec.width)
    runtime = OnnxRuntime(g.build([fitted.write(g, write_color(g)).scores["U-Net peak"].value]))
    scores = np.array([runtime.run_arrays(test.input(i))[0].item() for i in range(len(test))])
    return round(roc_auc(scores, test.is_anomaly), 4)


def _fit_discriminator() -> Json:
    """On cells of which four numbers decide twelve; unusual ones do not keep to that."""
    from linewatch.training.families.discriminator import Discriminator
    from linewatch.training.metrics import roc_auc

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 12))
    cells = (rng.normal(size=(4000, 4)) @ mixing).astype(np.float32)
    odd = cells[3000:] + rng.normal(0, 1.5, (1000, 12)).astype(np.float32)
    begun = time.perf_counter()
    net = Discriminator.fit(cells[:3000], np.zeros((0, 12), np.float32), 0)
    seconds = time.perf_counter() - begun
    asked = np.concatenate([cells[3000:], odd])
    scores = np.maximum(asked @ net.weights[0].T + net.biases[0], 0) @ net.weights[1].T + net.biases[1]
    return {"seconds": round(seconds, 2), "roc_auc": round(roc_auc(scores[:, 0], np.arange(2000) >= 1000), 4)}


if __name__ == "__main__":
    print(json.dumps(check_fit(**json.loads(sys.argv[1]))))
