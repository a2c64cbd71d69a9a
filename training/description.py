"""What a bundle says of how its model came about."""

from importlib.metadata import version

import numpy as np

from linewatch.anomaly_model.detection import probability
from linewatch.anomaly_model.manifest import Json, Manifest, ModelIdentity, ScoreRange
from linewatch.training.data.pictures import PictureStore
from linewatch.training.data.split import Split
from linewatch.training.data.survey import MOST_SKIPPED, count_sizes, name_size
from linewatch.training.families.encoder import Encoder
from linewatch.training.families.family import SEGMENTATION_NET
from linewatch.training.graph.cost import cost_model
from linewatch.training.metrics import image_metrics
from linewatch.training.options import TrainingOptions
from linewatch.training.selection.decision import normal_deciles
from linewatch.training.selection.fitting import FitResult

SUSPICIOUS = 0.9
"""Out-of-fold confidence in the other class from which a label is suspected to be wrong."""
MOST_LISTED = 20
"""Near-duplicates and suspected labels that are named."""


def describe(
    parts: Split, result: FitResult, options: TrainingOptions, model: bytes, encoder: Encoder | str, *, side: str,
    leaked: list[list[str]], warnings: tuple[str, ...],
) -> Manifest:  # fmt: skip
    """What a bundle says of its model, all but the evaluation.

    Args:
        parts: what was trained on.
        result: of fitting.
        options: what the user chose.
        model: the graph.
        encoder: pretrained, or why there is none.
        side: why the input has its size.
        leaked: test pictures that are nearly the same as training pictures, each with that one.
        warnings: for people.
    """
    store, dataset, scores = parts.store, parts.train, result.out_of_fold
    training: Json = {
        "pictures": len(store),
        "normal": dataset.normals,
        "anomaly": dataset.anomalies,
        "unlabelled": dataset.unlabelled,
        "skipped": list(dataset.skipped[:MOST_SKIPPED]),
        "sizes": {name_size(size): number for size, number in count_sizes(dataset).most_common()},
        "other_sizes": "resize" if options.resize else "refuse",
        "with_mask": int(store.has_mask.sum()),
        "seed": options.seed,
        "side": min(store.spec.height, store.spec.width),
        "side_why": side,
        **result.findings,
        "encoder": encoder if isinstance(encoder, str) else {**encoder.record(), "used": _uses(result, encoder)},
        "backbone": options.backbone.record() if options.backbone else None,
        "cost": {"milliseconds": round(cost_model().milliseconds(model), 2), **cost_model().record()},
        "weak": bool(result.weak),
        "warnings": list(warnings),
        "out_of_fold": image_metrics(scores, store.is_anomaly, result.decision.threshold).as_json(),
        "near_duplicates": _near_duplicates(parts),
        "test_duplicates": leaked,
        "suspected_labels": _suspects(store, result),
    }
    return Manifest(
        format=1,
        model=ModelIdentity(
            # The form that the cloud service gave its models, with a region and account that say "none".
            arn=options.arn or f"arn:aws:lookoutvision:local:000000000000:model/{options.name}/{options.model_version}",
            name=options.name,
            version=options.model_version,
        ),
        input=store.spec,
        picture=store.picture,
        labels=result.labels,
        decision=result.decision,
        score_range=ScoreRange(
            low=float(scores.min()), high=float(scores.max()), normal_deciles=normal_deciles(scores, store.is_anomaly)
        ),
        training=training,
        evaluation={},
        tools={p: version(p) for p in ("linewatch", "numpy", "onnx", "onnxruntime", "scikit-learn", "torch")},
        files={},
    )


def _uses(result: FitResult, encoder: Encoder) -> bool:
    """Whether the shipped graph holds its weights, as they were published or fitted further."""
    return any(name in (encoder.label, SEGMENTATION_NET) for name in result.graph_spec.fitted)


def _near_duplicates(parts: Split) -> list[list[str]]:
    groups = np.flatnonzero(np.bincount(parts.groups) > 1)[:MOST_LISTED]
    return [[parts.store.names[i] for i in np.flatnonzero(parts.groups == g)][:MOST_LISTED] for g in groups]


def _suspects(store: PictureStore, result: FitResult) -> list[Json]:
    """Pictures that the others contradict with confidence: look at these labels first."""
    truth = store.is_anomaly
    if not truth.any():  # with normal pictures only the scale of p is a convention, not evidence
        return []
    p = np.array([probability(float(score), result.decision) for score in result.out_of_fold])
    against = np.where(truth, 1 - p, p)
    return [
        {"picture": store.names[i], "label": "anomaly" if truth[i] else "normal", "against": round(float(against[i]), 4)}
        for i in np.argsort(-against)[:MOST_LISTED]
        if against[i] > SUSPICIOUS
    ]
