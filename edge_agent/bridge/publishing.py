"""Results from the spool to one destination, in order, each until it is taken."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from linewatch.edge_agent.results.spool import Spool, SpooledResult

log = structlog.get_logger()
_BATCH = 100
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class DestinationError(Exception):
    """A result was not taken; it may be later."""


class Destination(Protocol):
    """Where results go."""

    @property
    def name(self) -> str:
        """For the log, and for what the spool notes of it: stays the same over restarts."""
        ...

    def publish(self, result: SpooledResult) -> None:
        """Hand over one result and wait until it is taken.

        Raises:
            DestinationError: it was not.
        """
        ...


class Publisher:
    """A thread that empties a spool into one destination. What is taken twice after a kill, is taken twice: at least once is promised."""

    def __init__(self, folder: Path, keep: int, destination: Destination, all_names: list[str]) -> None:
        """Publish what a spool has, from `start` on.

        Args:
            folder: of the spool.
            keep: results that it keeps.
            destination: to publish to.
            all_names: of the destinations that need a result before it is removed.
        """
        self._folder, self._keep, self._destination, self._all_names = folder, keep, destination, all_names
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=destination.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the result that is being published."""
        self._ended.set()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        failing = False
        spool: Spool | None = None
        while not self._ended.is_set():
            try:
                spool = spool or Spool(self._folder, self._keep)
                moved = publish_batch(spool, self._destination, self._all_names, self._ended.is_set)
            except (DestinationError, sqlite3.Error, OSError) as error:
                if not failing:  # one line when it begins and one when it ends, however long it takes
                    log.warning("results are not taken", destination=self._destination.name, reason=str(error))
                failing = True
                self._ended.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            if failing and moved:
                log.info("results are taken again", destination=self._destination.name)
                failing = False
            if moved:
                pause = _FIRST_PAUSE_S
            else:
                self._ended.wait(_LOOK_S)


def publish_batch(spool: Spool, destination: Destination, all_names: list[str], ended: Callable[[], bool] = lambda: False) -> int:
    """Publish some of what a destination does not have yet; returns how many.

    Args:
        spool: where results are kept; those that all destinations have are removed.
        destination: to publish to.
        all_names: of all destinations, this one among them.
        ended: whether to stop before the next result.

    Raises:
        DestinationError: a result was not taken; those before it were.
    """
    done = 0
    results = spool.after(destination.name, _BATCH)
    try:
        for result in results:
            if ended():
                break
            destination.publish(result)
            done += 1
    finally:
        if done:
            spool.published(destination.name, results[done - 1].number)
            spool.forget(all_names)
    return done


def expand_topic(topic: str, thing: str, model: str) -> str:
    """A topic with its places filled: {thing} and {model}."""
    return topic.replace("{thing}", thing).replace("{model}", model)
