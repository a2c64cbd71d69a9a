"""Which of the pictures that a dataset's lines name are not there: told when the dataset is made, and not by a training."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from linewatch.anomaly_model.errors import shorten
from linewatch.control_plane.objects import Objects, ObjectsError, UnavailableError, split_address

SHOWN = 5
_THREADS = 8
"""An S3 endpoint takes some 20 ms to say whether an object is there."""


def describe_missing(objects: Objects, named: Mapping[str, str]) -> str:
    """Look for objects; returns a sentence about those that are not there, or nothing when all are.

    The lines stay in the dataset: their pictures may be stored later. A store that does not answer is no fault of theirs either.

    Args:
        objects: the buckets.
        named: address to where it is named, such as "line 7"; empty where that tells nothing.
    """
    silent = threading.Event()

    def is_missing(address: str) -> bool:
        if silent.is_set():
            return False
        try:
            objects.size(*split_address(address))
        except UnavailableError:
            silent.set()
        except (ObjectsError, OSError):
            return True
        return False

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="missing") as pool:
        found = list(pool.map(is_missing, named))
    if silent.is_set():
        return "whether the pictures are there could not be found out: the store of objects did not answer"
    missing = [
        f"{address} ({where})" if where else address for (address, where), gone in zip(named.items(), found, strict=True) if gone
    ]
    if not missing:
        return ""
    shown = shorten(missing, SHOWN)
    return f"{len(missing)} of {len(named)} labelled pictures and masks are not there: {shown}. Store them before CreateModel"
