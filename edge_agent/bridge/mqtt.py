"""Any MQTT broker as a destination."""

import os
import socket
from urllib.parse import urlsplit

from awscrt import io, mqtt

from linewatch.edge_agent.bridge.messages import BridgeOptions
from linewatch.edge_agent.bridge.publishing import DestinationError, expand_topic
from linewatch.edge_agent.results.spool import SpooledResult

_ANSWER_S = 10
ENVIRONMENT = "LINEWATCH_MQTT_PASSWORD"
"""Where the password is read; never from a command line or a settings file."""


class BrokerTopic:
    """A topic of a broker; each result is sent until the broker has it (QoS 1)."""

    def __init__(self, options: BridgeOptions) -> None:
        """Connects at the first result."""
        self._options = options
        self.name = f"mqtt:{options.mqtt}/{options.mqtt_topic}"
        self._thing = os.environ.get("AWS_IOT_THING_NAME", socket.gethostname())
        self._connection: mqtt.Connection | None = None

    def _connect(self) -> mqtt.Connection:
        address, options = urlsplit(self._options.mqtt), self._options
        tls = None
        if address.scheme == "mqtts":
            if options.mqtt_certificate:
                context = io.TlsContextOptions.create_client_with_mtls_from_path(options.mqtt_certificate, options.mqtt_key)
            else:
                context = io.TlsContextOptions()
            if options.mqtt_ca:
                context.override_default_trust_store_from_path(None, options.mqtt_ca)
            tls = io.ClientTlsContext(context)
        connection = mqtt.Connection(
            client=mqtt.Client(tls_ctx=tls), host_name=address.hostname, port=address.port or (8883 if tls else 1883),
            client_id=f"linewatch-{self._thing}-{os.getpid()}", clean_session=True, keep_alive_secs=30,
            username=options.mqtt_user or None, password=os.environ.get(ENVIRONMENT) or None,
        )  # fmt: skip
        connection.connect().result(_ANSWER_S)
        return connection

    def publish(self, result: SpooledResult) -> None:
        """See `Destination`.

        Raises:
            DestinationError: the broker cannot be reached, or did not confirm the result in time.
        """
        try:
            if self._connection is None:
                self._connection = self._connect()
            topic = expand_topic(self._options.mqtt_topic, self._thing, result.model)
            sent, _ = self._connection.publish(topic, result.body, mqtt.QoS.AT_LEAST_ONCE)
            sent.result(_ANSWER_S)
        except Exception as error:  # awscrt raises many kinds, some of them bare
            raise DestinationError(f"{self._options.mqtt}: {error!r}") from error
