"""What is published of an inspected picture."""

import datetime as dt
from typing import Literal

import msgspec

from linewatch.edge_agent.results.spool import SpoolWriter
from linewatch.edge_agent.workers.messages import PredictResponse


class FoundLabel(msgspec.Struct, frozen=True):
    """A label that was found, and its share of the picture (0 to 1)."""

    name: str
    area: float


class InspectionResult(msgspec.Struct, frozen=True):
    """One inspected picture, as JSON.

    Attributes:
        time: when it was answered, UTC, ISO 8601; order is the queue's, not the clock's.
        model: component name.
        version: of the model.
        is_anomalous: the verdict.
        confidence: in the verdict, 0.5 to 1.
        score: see `anomaly_model.Detection`.
        threshold: on the same scale.
        anomalies: labels that were found, without the background.
        request_id: of the call.
        milliseconds: that the call took in the agent.
    """

    time: str
    model: str
    version: str
    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    anomalies: list[FoundLabel]
    request_id: str
    milliseconds: float


Mode = Literal["off", "anomalies", "all"]


class ResultSink:
    """Chooses what is published and puts it into the spool."""

    def __init__(self, writer: SpoolWriter | None, mode: Mode) -> None:
        """Without a writer nothing is published."""
        self._writer, self.mode = writer, mode

    def add(self, model: str, version: str, answer: PredictResponse, request_id: str, seconds: float) -> None:
        """Keep the result of a picture, if results of its kind are published.

        Args:
            model: component name.
            version: of the model.
            answer: of the worker.
            request_id: of the call.
            seconds: that the call took in the agent.
        """
        if self._writer is None or self.mode == "off" or (self.mode == "anomalies" and not answer.is_anomalous):
            return
        result = InspectionResult(
            dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), model, version, answer.is_anomalous, round(answer.confidence, 6),
            round(answer.score, 6), round(answer.threshold, 6), [FoundLabel(a.name, round(a.area, 6)) for a in answer.areas[1:]],
            request_id, round(seconds * 1e3, 2),
        )  # fmt: skip
        self._writer.put(model, msgspec.json.encode(result))

    def counts(self) -> tuple[int, int]:
        """See `SpoolWriter.counts`."""
        return self._writer.counts() if self._writer else (0, 0)

    def close(self) -> None:
        """Write what waits."""
        if self._writer:
            self._writer.close()
