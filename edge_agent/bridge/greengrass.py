"""Greengrass's core by IPC. Each operation is optional: what a core does not have costs one line in the log."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec
import structlog
from awsiot.eventstreamrpc import EventStreamError, LifecycleHandler
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import QOS, JsonMessage, PublishMessage, ReportedLifecycleState

from linewatch.edge_agent.bridge.publishing import DestinationError, expand_topic
from linewatch.edge_agent.results.spool import SpooledResult

log = structlog.get_logger()
_ANSWER_S = 10
_DEFER_MS = 2000
_DEFER_AT_MOST_S = 60


class Core(LifecycleHandler):  # type: ignore[misc]
    """One connection to the core."""

    def __init__(self, configured: Callable[[Mapping[str, Any]], None], busy: Callable[[], bool]) -> None:
        """Connect.

        Args:
            configured: told the component's configuration, now and whenever it changes.
            busy: whether pictures are being inspected; updates are put off then, for a minute at most.

        Raises:
            DestinationError: the core does not answer, or does not know us.
        """
        super().__init__()
        self._configured, self._busy = configured, busy
        self._deferring: dict[str, float] = {}
        self.lost = threading.Event()
        try:
            self._client = GreengrassCoreIPCClientV2(connect(lifecycle_handler=self, timeout=_ANSWER_S))
        except Exception as error:  # awscrt raises many kinds, some of them bare
            raise DestinationError(f"the core's IPC does not answer: {error!r}") from error

    def on_disconnect(self, reason: Exception | None) -> None:
        """See LifecycleHandler."""
        log.warning("IPC disconnected", reason=repr(reason))
        self.lost.set()

    def on_error(self, error: Exception) -> bool:
        """See LifecycleHandler: the connection ends."""
        log.warning("IPC failed", reason=repr(error))
        return True

    def close(self) -> None:
        """End the connection."""
        self._client.close(executor_wait=False)

    def _attempt(self, what: str, call: Callable[[], Any]) -> Any | None:
        try:
            return call()
        except Exception as error:  # whichever: this operation is not to be had here
            log.warning("not available on this core", operation=what, reason=_reason(error))
            return None

    def follow_configuration(self) -> None:
        """Tell the configuration now, and at each change."""
        self._read_configuration()
        self._attempt("SubscribeToConfigurationUpdate", lambda: self._client.subscribe_to_configuration_update(
            on_stream_event=lambda _: self._read_configuration(), on_stream_error=lambda _: False, on_stream_closed=lambda: None))  # fmt: skip

    def _read_configuration(self) -> None:
        answer = self._attempt("GetConfiguration", self._client.get_configuration)
        if answer is not None and isinstance(answer.value, dict):
            self._configured(answer.value)

    def defer_updates(self) -> None:
        """Have the core ask before it updates components."""
        self._attempt("SubscribeToComponentUpdates", lambda: self._client.subscribe_to_component_updates(
            on_stream_event=self._update_wanted, on_stream_error=lambda _: False, on_stream_closed=lambda: None))  # fmt: skip

    def _update_wanted(self, event: Any) -> None:
        wanted = getattr(event, "pre_update_event", None)
        if wanted is None:
            return
        now = time.monotonic()
        since = self._deferring.setdefault(wanted.deployment_id, now)
        wait = _DEFER_MS if self._busy() and now - since < _DEFER_AT_MOST_S else 0
        if not wait:
            del self._deferring[wanted.deployment_id]
        self._attempt("DeferComponentUpdate", lambda: self._client.defer_component_update(
            deployment_id=wanted.deployment_id, recheck_after_ms=wait, message="a picture is being inspected" if wait else ""))  # fmt: skip

    def serving(self) -> None:
        """Tell the core that the component runs."""
        self._attempt("UpdateState", lambda: self._client.update_state(state=ReportedLifecycleState.RUNNING))

    def publish(self, topic: str, document: Any) -> None:
        """To a local topic.

        Raises:
            DestinationError: the core did not take it.
        """
        message = PublishMessage(json_message=JsonMessage(message=document))
        self._wait(self._client.publish_to_topic_async(topic=topic, publish_message=message))

    def publish_to_iot(self, topic: str, payload: bytes) -> None:
        """To AWS IoT Core, through the core's connection.

        Raises:
            DestinationError: the core did not take it; a core without a network may keep it itself, or not.
        """
        self._wait(self._client.publish_to_iot_core_async(topic_name=topic, qos=QOS.AT_LEAST_ONCE, payload=payload))

    def _wait(self, answer: "Future[Any]") -> None:
        try:
            answer.result(_ANSWER_S)
        except Exception as error:
            raise DestinationError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {getattr(error, 'message', None) or error}".strip() if isinstance(error, EventStreamError) else repr(error)


class CoreTopic:
    """A local topic, or one of AWS IoT Core, as a destination."""

    def __init__(self, core: Callable[[], Core], topic: str, *, iot: bool) -> None:
        """Publish to `topic` through what `core` gives."""
        self._core, self._topic, self._iot = core, topic, iot
        self.name = f"{'iot' if iot else 'local'}:{topic}"

    def publish(self, result: SpooledResult) -> None:
        """See `Destination`."""
        topic = expand_topic(self._topic, os.environ.get("AWS_IOT_THING_NAME", "device"), result.model)
        if self._iot:
            self._core().publish_to_iot(topic, result.body)
        else:
            self._core().publish(topic, msgspec.json.decode(result.body))
