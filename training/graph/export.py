"""From fitted families to the one graph that is shipped, and its golden pictures."""

from io import BytesIO

import numpy as np
from PIL import Image

from linewatch.anomaly_model.detection import check_finite
from linewatch.anomaly_model.manifest import GOLDEN_NAME
from linewatch.anomaly_model.runtime import split_outputs
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F32
from linewatch.training.data.pictures import PictureStore
from linewatch.training.graph.color import write_color
from linewatch.training.graph.outputs import FamilyOutputs, FittedFamily
from linewatch.training.graph.spec import GraphSpec
from linewatch.training.graph.writer import GraphWriter

GOLDEN_PER_CLASS = 3
DISTANCE_PICTURES = 60
MAP_STRIDE = 4
"""Pixels of the input on a side of a cell of a distance map that is shipped; finer ones stay as they are."""


def write_model(graph_spec: GraphSpec, store: PictureStore) -> bytes:
    """The graph: score (1 x 1), map (1 x 1 x h x w, 0 to 1), and for segmentation labels (1 x labels + 1 x h x w)."""
    g = GraphWriter(store.spec.height, store.spec.width)
    color = write_color(g)
    written = {name: fitted.write(g, color) for name, fitted in graph_spec.fitted.items()}
    scores = {name: score.value for w in written.values() for name, score in w.scores.items()}
    # A score without weight is not written, and costs nothing on the line.
    used = [(scores[c], w) for c, w in zip(graph_spec.columns, graph_spec.stack.weights, strict=True) if w > 0]
    weights = np.array([w for _, w in used], np.float32).reshape(1, -1, 1, 1)
    values = g.concat(*(s for s, _ in used)) if len(used) > 1 else used[0][0]
    score = g.node("Flatten", g.conv(values, weights, np.array([graph_spec.stack.bias], np.float32)), axis=0, name="score")
    if graph_spec.segmenter is None:
        return g.build([score, _anomaly_map(g, written, graph_spec, store)])
    segmentation = written[graph_spec.segmenter].segmentation
    assert segmentation is not None
    heat = g.node("Sigmoid", segmentation.max_logit, name="map")
    factor = segmentation.stride if graph_spec.fine else max(1, segmentation.stride // 2)
    labels = g.upsample(segmentation.logits, factor, name="labels") if factor > 1 else segmentation.logits
    return g.build([score, heat, labels])


def _anomaly_map(g: GraphWriter, written: dict[str, FamilyOutputs], graph_spec: GraphSpec, store: PictureStore) -> str:
    """Where something unusual is, for models without labels."""
    for outputs in written.values():
        if outputs.segmentation is not None:
            return g.node("Sigmoid", outputs.segmentation.max_logit, name="map")
    name, distance = next((n, w.distance_map) for n, w in written.items() if w.distance_map is not None)
    low, high = _normal_distances(graph_spec.fitted[name], store)
    # 0.5 at the largest distance that training normals show, so that normal parts stay dark.
    steepness = 6 / max(high - low, 1e-6)
    scaled = g.scale(distance.value, steepness, -steepness * high)
    return g.node("Sigmoid", g.upsample(scaled, max(1, distance.stride // MAP_STRIDE)), name="map")


def _normal_distances(fitted: FittedFamily, store: PictureStore) -> tuple[float, float]:
    """Median and 99.9th percentile of the distance over cells of normal training pictures."""
    g = GraphWriter(store.spec.height, store.spec.width)
    distance = fitted.write(g, write_color(g)).distance_map
    assert distance is not None
    runtime = OnnxRuntime(g.build([distance.value]), threads=2)
    normals = np.flatnonzero(~store.is_anomaly)[:DISTANCE_PICTURES]
    values: F32 = np.concatenate([runtime.run_arrays(store.input(int(i)))[0].ravel() for i in normals])
    return float(np.median(values)), float(np.quantile(values, 0.999))


def golden_files(runtime: OnnxRuntime, store: PictureStore) -> dict[str, bytes]:
    """A few pictures at the model's input size, and the raw outputs that every runtime must repeat.

    Raises:
        NotFiniteError: an output is NaN or infinite.
    """
    files: dict[str, bytes] = {}
    expected: dict[str, F32] = {}
    index = [int(i) for value in (False, True) for i in np.flatnonzero(store.is_anomaly == value)[:GOLDEN_PER_CLASS]]
    for n, i in enumerate(index):
        picture = store.input(i)
        buffer = BytesIO()
        Image.fromarray(picture[0]).save(buffer, "PNG")
        files[f"golden/{n}.png"] = buffer.getvalue()
        outputs = runtime.run_arrays(picture)
        check_finite(split_outputs(outputs))
        for output, value in zip(("score", "map", "labels"), outputs, strict=False):
            expected[f"{n}.{output}"] = value
    archive = BytesIO()
    np.savez_compressed(archive, **expected)  # type: ignore[arg-type]
    return {**files, GOLDEN_NAME: archive.getvalue()}
