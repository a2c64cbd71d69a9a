"""Normal pictures only: which scores count, chosen by defects that are made up, and pasted onto parts that no fit has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F64, Ints
from linewatch.training.data.crops import make_up_defect
from linewatch.training.data.folds import assign_folds
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.family import Family
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.metrics import roc_auc
from linewatch.training.selection.stack import fit_normals_stack
from linewatch.training.workspace import Arrays, Workspace

MADE_UP = 2
"""Defects made up for each normal picture, each on a copy of its own."""
MOST_COLUMNS = 4
"""Scores that count at most: each more is one more distance map to compute."""
WORTH = 0.01
"""ROC AUC that one more score must bring."""


@dataclass(frozen=True, slots=True)
class NormalScores:
    """What families said of N normal pictures that they were not fitted on.

    Attributes:
        clean: score name to N scores.
        made_up: score name to N * MADE_UP scores of the same pictures with a made-up defect.
        folds: N fold numbers.
    """

    clean: dict[str, F64]
    made_up: dict[str, F64]
    folds: Ints

    def roc_auc(self, columns: tuple[str, ...]) -> float:
        """How well the mean of standardised scores tells made-up defects from clean pictures."""
        clean, made_up = (np.stack([side[c] for c in columns], axis=1) for side in (self.clean, self.made_up))
        stack = fit_normals_stack(clean)
        scores = np.concatenate([stack(clean), stack(made_up)])
        return roc_auc(scores, np.arange(len(scores)) >= len(clean))


def score_normals(
    families: Sequence[Family], store: PictureStore, groups: Ints, seed: int, workspace: Workspace, progress: ProgressCallback
) -> NormalScores:
    """Fit every family fold by fold, and score the pictures of the fold that it has not seen, clean and with defects.

    Args:
        families: what is fitted, all in as many folds.
        store: the training pictures, all normal.
        groups: N group numbers; pictures that must stay together share one.
        seed: of the folds and the defects.
        workspace: where finished folds are kept.
        progress: told of each fold.
    """
    clean: dict[str, F64] = {}
    made_up: dict[str, F64] = {}
    folds = assign_folds(store.strata(), groups, families[0].folds, seed)
    for family in families:
        for fold in range(family.folds):
            progress(f"cross-validating {family.name}", fold, family.folds)
            held_out = np.flatnonzero(folds == fold)
            if not len(held_out):
                continue
            kept = workspace.step(
                f"normals-{family.name}-{fold}".replace(" ", "-").replace(":", "-"),
                lambda family=family, fold=fold, held_out=held_out: _score(  # type: ignore[misc]
                    family, store, held_out, seed, f"fold-{fold + 1}-of-{family.folds}"
                ),
            )
            for key, values in kept.items():
                side, _, name = key.partition(" ")
                scores, width = (clean, 1) if side == "clean" else (made_up, MADE_UP)
                column = scores.setdefault(name, np.full((len(store), width), np.nan))
                column[held_out] = values.reshape(-1, width)
        progress(f"cross-validating {family.name}", family.folds, family.folds)
    return NormalScores({c: v.ravel() for c, v in clean.items()}, {c: v.ravel() for c, v in made_up.items()}, folds)


def _score(family: Family, store: PictureStore, held_out: Ints, seed: int, key: str) -> Arrays:
    chosen = np.ones(len(store), bool)
    chosen[held_out] = False
    g = GraphWriter(store.spec.height, store.spec.width)
    written = family.fit(chosen, key).write(g, write_color(g))
    runtime = OnnxRuntime(g.build(written.score_values), threads=2)
    learnt = np.flatnonzero(chosen)
    rows: dict[str, list[list[float]]] = {"clean": [], "made-up": []}
    for index in held_out:
        picture = store.input(int(index))
        rows["clean"].append(_values(runtime, picture))
        rng = np.random.default_rng([seed, 17, int(index)])
        for _ in range(MADE_UP):
            other = store.input(int(rng.choice(learnt)))[0].astype(np.float32)
            spoilt, _labels = make_up_defect(picture[0].astype(np.float32), store.label_map(int(index)), other, rng)
            rows["made-up"].append(_values(runtime, spoilt.astype(np.uint8)[None]))
    return {f"{side} {name}": column for side, values in rows.items() for name, column in zip(written.scores, np.array(values).T, strict=True)}


def _values(runtime: OnnxRuntime, picture: np.ndarray) -> list[float]:
    return [float(v.reshape(-1)[0]) for v in runtime.run_arrays(picture)]


def choose_columns(scores: NormalScores, peaks: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The scores that count, best first, and the ROC AUC of each alone on made-up defects.

    Begins with the best, and adds the one that helps most as long as it brings more than `WORTH`: what was made up is no
    evidence for more than that.

    Args:
        scores: of clean pictures and made-up defects.
        peaks: what is chosen from.
    """
    alone = {c: scores.roc_auc((c,)) for c in peaks}
    chosen: tuple[str, ...] = (max(alone, key=lambda c: alone[c]),)
    reached = alone[chosen[0]]
    while len(chosen) < min(MOST_COLUMNS, len(peaks)):
        with_one_more = {c: scores.roc_auc((*chosen, c)) for c in peaks if c not in chosen}
        best = max(with_one_more, key=lambda c: with_one_more[c])
        if with_one_more[best] < reached + WORTH:
            break
        chosen, reached = (*chosen, best), with_one_more[best]
    return chosen, alone
