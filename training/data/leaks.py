"""Test pictures that were trained on."""

import numpy as np

from linewatch.anomaly_model.picture import to_model_input
from linewatch.training.data.dataset import Dataset, read_sample
from linewatch.training.data.near_duplicates import leaks, thumbnail
from linewatch.training.data.pictures import PictureStore

MOST_LISTED = 20
"""Pairs that are named."""


def find_leaks(store: PictureStore, test: Dataset) -> list[list[str]]:
    """Names of test pictures that are nearly the same as training pictures, each with that of the training picture."""
    seen = np.stack([thumbnail(to_model_input(read_sample(s), store.spec)[0]) for s in test.samples])
    truth = np.array([bool(s.is_anomaly) for s in test.samples])
    pairs = leaks(store.thumbnails, store.is_anomaly, seen, truth)
    return [[test.samples[i].name, store.names[j]] for i, j in pairs[:MOST_LISTED]]
