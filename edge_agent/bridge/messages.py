"""What the agent and its bridge say to each other: msgpack messages on a socket pair."""

import socket

import msgspec

from linewatch.edge_agent.socket_pair import receive_message


class BridgeOptions(msgspec.Struct, frozen=True):
    """What a bridge is told when it is started; it is one argument of its command line, as JSON.

    Attributes:
        channel: descriptor of its end of the socket pair.
        greengrass: whether to connect to the core that the environment names.
        spool: folder of the results; empty for none.
        keep: results that are kept.
        local_topic: of the core's local topics to publish results to; empty for none.
        iot_topic: of AWS IoT Core.
        mqtt: mqtt://HOST:PORT or mqtts://HOST:PORT; empty for no broker.
        mqtt_topic: on the broker.
        mqtt_ca: PEM file of the authorities that may vouch for the broker; empty for the system's.
        mqtt_certificate: PEM file of the certificate that is shown to it; empty for none.
        mqtt_key: PEM file of its private key.
        mqtt_user: name there; its password is in the environment, as LINEWATCH_MQTT_PASSWORD.
    """

    channel: int
    greengrass: bool
    spool: str
    keep: int
    local_topic: str
    iot_topic: str
    mqtt: str
    mqtt_topic: str
    mqtt_ca: str
    mqtt_certificate: str
    mqtt_key: str
    mqtt_user: str


class Configured(msgspec.Struct, frozen=True, tag=True):
    """Bridge: the component's configuration; at the start and at each change."""

    values: dict[str, object]


class RunningCallsQuery(msgspec.Struct, frozen=True, tag=True):
    """Bridge: the core wants to update something; are pictures being inspected? The answer has the question's number."""

    number: int


class RunningCalls(msgspec.Struct, frozen=True, tag=True):
    """Agent: calls that workers have now."""

    number: int
    calls: int


class Serving(msgspec.Struct, frozen=True, tag=True):
    """Agent: the socket is bound and calls are taken."""


FromBridge = Configured | RunningCallsQuery
FromAgent = RunningCalls | Serving
_ENCODER = msgspec.msgpack.Encoder()
_FROM_BRIDGE = msgspec.msgpack.Decoder(FromBridge)
_FROM_AGENT = msgspec.msgpack.Decoder(FromAgent)


def send(channel: socket.socket, message: FromBridge | FromAgent) -> None:
    """Send one message.

    Raises:
        OSError: nobody is there.
    """
    channel.send(_ENCODER.encode(message))


def receive_from_bridge(channel: socket.socket) -> FromBridge | None:
    """Agent: the next message; None when the bridge is gone."""
    data = receive_message(channel)
    return _FROM_BRIDGE.decode(data) if data else None


def receive_from_agent(channel: socket.socket) -> FromAgent | None:
    """Bridge: the next message; None when the agent is gone."""
    data = receive_message(channel)
    return _FROM_AGENT.decode(data) if data else None
