"""What is told of each DetectAnomalies call when it is over: to the metrics, to the results, to the log."""

import structlog

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.api.status import status_of
from linewatch.edge_agent.models.host import ModelHost
from linewatch.edge_agent.models.metrics import Counts
from linewatch.edge_agent.results.sink import ResultSink
from linewatch.edge_agent.workers.prediction import Prediction

log = structlog.get_logger()


class CallRecord:
    """Tells all of them.

    Attributes:
        log_calls: whether each picture gets a line in the log.
    """

    def __init__(self, counts: Counts, results: ResultSink) -> None:
        self._counts, self._results = counts, results
        self.log_calls = False

    def answered(self, host: ModelHost, prediction: Prediction, request_id: str, seconds: float) -> None:
        """A picture was inspected.

        Args:
            host: of the model.
            prediction: what was found.
            request_id: of the call.
            seconds: that the call took, from the whole request to its answer.
        """
        answer = prediction.answer
        self._counts.answered(host.component, seconds, prediction.seconds, answer.score, anomalous=answer.is_anomalous)
        self._results.add(host.component, host.version, answer, request_id, seconds)
        if self.log_calls:
            log.info("picture inspected", model=host.component, is_anomalous=answer.is_anomalous, confidence=round(answer.confidence, 4),
                     milliseconds=round(seconds * 1e3, 2), request_id=request_id)  # fmt: skip

    def failed(self, component: str, error: LinewatchError) -> None:
        """A call of an installed model ended with an error."""
        self._counts.failed(component, status_of(error).name)
