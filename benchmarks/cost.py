"""Fits the prices that the trainer's budget is counted in: graphs of every family are run here, and their work is counted.

    python -m benchmarks.cost                                  # how well the prices in use fit this machine
    python -m benchmarks.cost --write training/graph/cost_model.json # fit them anew, on this machine

Times are the processor time of the thread that computes, by ONNX Runtime on one core. Run it on an idle machine: what else
runs shares the caches.
"""

import argparse
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from scipy.optimize import nnls

from benchmarks.exported import drawn, fitted, resnet
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.extractor import BANK
from linewatch.training.families.unet import UNet, export
from linewatch.training.graph.color import write_color
from linewatch.training.graph.cost import WORK, CostModel, cost_model, count_work
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.graph.writer import GraphWriter

SIZES = ((64, 64), (96, 128), (128, 176), (160, 160), (192, 256), (224, 224), (256, 336), (320, 320), (384, 512))
"""Height and width of inputs."""
ROUNDS, PASSES = 10, 3
F64 = npt.NDArray[np.float64]


def measure_ms(model: bytes) -> float:
    """Milliseconds of processor time that a graph takes on one core: the least of a few runs, as other work only adds."""
    runtime = OnnxRuntime(model, threads=1)
    height, width = (d.dim_value for d in onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim[1:3])
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    times = []
    for _ in range(ROUNDS + 2):
        begun = time.thread_time()
        runtime.run_arrays(picture)
        times.append((time.thread_time() - begun) * 1e3)
    return min(times[2:])


def graphs(height: int, width: int) -> Iterator[tuple[str, bytes]]:
    """Every family's graphs at an input size: each score alone with its map, all scores, and all with labels."""
    torch.manual_seed(0)
    families: dict[str, FittedFamily] = {
        "bank": fitted(BANK, supervised=True, size=(height, width)),
        "U-Net": export(UNet(4).eval()),
        "resnet18": fitted(resnet(18), supervised=True, size=(height, width)),
    }
    for name, family in families.items():
        g = GraphWriter(height, width)
        for score in family.write(g, write_color(g)).scores:
            yield f"{name}, {score}", _graph(family, height, width, score)
        yield f"{name}, all scores and labels", _graph(family, height, width, None)
    for kind in ("depthwise", "resize", "exponential", "move"):
        yield f"mostly {kind}", _mostly(kind, height, width)


def _graph(family: FittedFamily, height: int, width: int, score: str | None) -> bytes:
    """One score and the map of distances or of labels' strength, or all scores and the labels."""
    g = GraphWriter(height, width)
    written = family.write(g, write_color(g))
    if score is None:
        assert written.segmentation
        return g.build([g.concat(*written.score_values), g.upsample(written.segmentation.logits, 2)])
    if written.distance_map:
        shown = written.distance_map.value
    else:
        assert written.segmentation
        shown = written.segmentation.max_logit
    return g.build([written.scores[score].value, g.node("Sigmoid", g.upsample(shown, 2))])


def _mostly(kind: str, height: int, width: int) -> bytes:
    """What families do little of, often enough to have a price."""
    g = GraphWriter(height, width)
    x = g.conv(write_color(g), drawn(32, 3, 3, 3), stride=2)
    for _ in range(4):
        if kind == "depthwise":
            weight = g.constant(drawn(32, 1, 7, 7))
            x = g.node("Relu", g.node("Conv", x, weight, kernel_shape=[7, 7], strides=[1, 1], pads=[3] * 4, group=32))
        elif kind == "resize":
            x = g.pool("AveragePool", g.upsample(x, 2), 2, 2)
        elif kind == "exponential":
            x = g.node("Sigmoid", x)
        else:
            x = g.node("Transpose", g.node("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    return g.build([g.node("GlobalMaxPool", x)])


def fit(work: F64, times: F64) -> F64:
    """Prices >= 0 of the kinds of work, in ms a unit, by least squares of the relative errors."""
    relative = work / times[:, None]
    scale = relative.max(axis=0) + 1e-12
    return np.asarray(nnls(relative / scale, np.ones(len(times)))[0] / scale)


def left_out(work: F64, times: F64, sizes: npt.NDArray[np.int64]) -> F64:
    """What prices fitted on the other input sizes predict of each graph."""
    found = np.zeros(len(times))
    for size in np.unique(sizes):
        mine = sizes == size
        found[mine] = work[mine] @ fit(work[~mine], times[~mine])
    return found


def processor() -> str:
    """What the kernel calls this processor."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    return f"{named.get('model name', 'unknown')}, family {named.get('cpu family', '?')}, model {named.get('model', '?')}"


def main() -> None:
    """Parse, measure, fit or compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="fit prices and write them there")
    arguments = parser.parse_args()
    times: dict[str, float] = {}
    counted: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for number in range(PASSES):  # what else runs on the machine comes and goes
        for size, (height, width) in enumerate(SIZES):
            for name, model in graphs(height, width):
                place = f"{name} at {height} x {width}"
                counted[place], sizes[place] = count_work(model), size
                times[place] = min(measure_ms(model), times.get(place, np.inf))
                print(f"pass {number + 1} of {PASSES}: {place:60} {times[place]:8.2f} ms", flush=True)
    names, measured = list(times), np.array(list(times.values()))
    work = np.array([[counted[name][kind] for kind in WORK] for name in names])
    if arguments.write:
        predicted = left_out(work, measured, np.array(list(sizes.values())))
    else:
        predicted = work @ np.array([cost_model().nanoseconds[kind] for kind in WORK]) / 1e6
    error = predicted / measured - 1
    unexplained = float(((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())
    worst = int(np.abs(error).argmax())
    print(f"{len(names)} graphs on {processor()}: R^2 {1 - unexplained:.4f}, median error {np.median(np.abs(error)):.1%}, "
          f"worst {error[worst]:+.1%} ({names[worst]}: {measured[worst]:.2f} ms)")  # fmt: skip
    for i in np.argsort(-np.abs(error))[:8]:
        print(f"   {names[i]}: measured {measured[i]:.2f} ms, predicted {predicted[i]:.2f} ms")
    if arguments.write:
        prices = {kind: float(f"{price * 1e6:.4g}") for kind, price in zip(WORK, fit(work, measured), strict=True)}
        print("nanoseconds:", prices)
        made = CostModel(
            "1", processor(), f"ONNX Runtime {version('onnxruntime')}, one thread", prices, len(names), round(1 - unexplained, 4),
            round(float(np.median(np.abs(error))), 3), round(float(np.abs(error).max()), 3),
        )  # fmt: skip
        arguments.write.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")


if __name__ == "__main__":
    main()
