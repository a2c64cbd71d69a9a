"""The agent's settings: one frozen object, built once from defaults < TOML file < LINEWATCH_* environment < flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from linewatch.anomaly_model.settings import load_struct

DEFAULT_SOCKET = "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
PREFIX = "LINEWATCH_AGENT_"
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the edge agent; in the environment each is called LINEWATCH_AGENT_ and its name in capitals.

    Attributes:
        models: folder with bundles, or with registrations of deployed components.
        artifacts: folder in which a core unpacks components (packages/artifacts-unarchived below its root), to find models whose run script
            could not register them; empty looks at none.
        socket: address to listen on: unix:///PATH or unix-abstract:NAME.
        socket_mode: permission bits of the socket, octal. 0660 lets the group in.
        socket_group: group of the socket, such as ggc_group; empty leaves it as it is.
        allowed_users: users that may call, by name or number, with commas between; empty lets in whom the socket's mode does.
        tcp: HOST:PORT to listen on as well, with TLS for both sides; empty does not. Pictures come as bytes there.
        tls_certificate: PEM file of the certificate shown there.
        tls_key: PEM file of its private key.
        tls_clients: PEM file of the authorities whose clients may call there.
        runtime: auto (what was measured, else TVM where the bundle has code for this machine), tvm, onnxruntime or
            onnxruntime-gpu.
        measured: folder of measurements by `linewatch doctor --record`; empty for none.
        trusted_keys: public key, or folder of public keys (*.pub), of which one must have signed a model; empty asks for none.
        autostart: models to start without a client's word, by component name, with commas between.
        restarts: times in a minute that a model whose worker died is started again by itself, or goes on after an answer that was not
            finite; 0 never.
        removal_s: seconds after which a running model that is not installed any more is stopped and forgotten; an update takes less.
        rescan_s: seconds between looks for new versions of running models and for models to start; 0 never looks.
        idle_stop_s: seconds without a call after which a model's memory is given back until the next one; 0 never.
        concurrency: pictures of one model that are inspected at a time, each by a worker process of its own.
        threads: CPU threads for one picture.
        cpus: processors for workers, such as 2-5 or 0,2: each worker gets its share of them; empty leaves that to the kernel.
        other_sizes: what becomes of pictures of another size than the training's: resize, or refuse.
        row_padding: rows of pictures and masks in shared memory: refuse takes them without padding only; 4 also those padded to four bytes,
            which GStreamer makes.
        queue: calls that may wait for one model; the next one is answered RESOURCE_EXHAUSTED.
        worker_user: user that workers run as, where the agent may change users; empty for the agent's own.
        worker_mib: address space of a worker; 0 for no limit.
        confine: whether workers give up network, new processes and writing files before they see a picture.
        start_timeout_s: seconds that a model may take to load.
        call_timeout_s: seconds after which a worker that does not answer is ended.
        free_mib: memory that must be free to start a model.
        metrics: HOST:PORT for Prometheus, such as 127.0.0.1:9464; empty for none. Whoever reaches it may read it.
        log_calls: whether each picture gets a line in the log; calls that fail always do.
        state: file in which the agent keeps which models run, to start them again after a restart; empty for none.
        greengrass: auto talks to the core that the environment names; off does not.
        results: which inspected pictures are published: off, anomalies or all.
        spool: folder in which results are kept until they are published.
        results_keep: how many are kept; then the oldest leave, and are counted.
        results_local_topic: local topic of the core, with {thing} and {model} filled in; empty for none.
        results_iot_topic: topic of AWS IoT Core, likewise.
        mqtt: mqtt://HOST:PORT or mqtts://HOST:PORT of a broker for results; empty for none. Its password is in LINEWATCH_MQTT_PASSWORD.
        mqtt_topic: topic there, likewise.
        mqtt_ca: PEM file of the authorities that may vouch for the broker; empty for the system's.
        mqtt_certificate: PEM file of the certificate shown to the broker; empty for none.
        mqtt_key: PEM file of its private key.
        mqtt_user: name there.
        stop_grace_s: seconds that running calls have to finish when the agent is told to stop.
    """

    models: str = "models"
    artifacts: str = ""
    socket: str = DEFAULT_SOCKET
    socket_mode: Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_group: str = ""
    allowed_users: str = ""
    tcp: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_clients: str = ""
    runtime: Literal["auto", "tvm", "onnxruntime", "onnxruntime-gpu"] = "auto"
    measured: str = ""
    trusted_keys: str = ""
    autostart: str = ""
    restarts: Annotated[int, msgspec.Meta(ge=0)] = 3
    removal_s: Annotated[int, msgspec.Meta(ge=0)] = 60
    rescan_s: Annotated[int, msgspec.Meta(ge=0)] = 2
    idle_stop_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    threads: _Positive = 1
    cpus: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*)?$")] = ""
    other_sizes: Literal["resize", "refuse"] = "resize"
    row_padding: Literal["refuse", "4"] = "refuse"
    queue: _Positive = 8
    worker_user: str = ""
    worker_mib: Annotated[int, msgspec.Meta(ge=0)] = 4096
    confine: bool = True
    start_timeout_s: _Positive = 120
    call_timeout_s: _Positive = 30
    free_mib: Annotated[int, msgspec.Meta(ge=0)] = 200
    metrics: str = ""
    log_calls: bool = False
    state: str = ""
    greengrass: Literal["auto", "off"] = "auto"
    results: Literal["off", "anomalies", "all"] = "off"
    spool: str = ""
    results_keep: _Positive = 100_000
    results_local_topic: str = ""
    results_iot_topic: str = ""
    mqtt: Annotated[str, msgspec.Meta(pattern=r"^(mqtts?://[^/\s]+)?$")] = ""
    mqtt_topic: str = "linewatch/{thing}/{model}/results"
    mqtt_ca: str = ""
    mqtt_certificate: str = ""
    mqtt_key: str = ""
    mqtt_user: str = ""
    stop_grace_s: Annotated[int, msgspec.Meta(ge=0)] = 5


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Build the settings; flags that are None were not given.

    Raises:
        SettingsError: an unknown name (the known ones are listed) or a wrong value, and where it came from.
    """
    return load_struct(Settings, PREFIX, file, environment, flags)


def cpu_shares(cpus: str, workers: int) -> list[list[int]]:
    """The processors of each worker. Where there are fewer than workers, all share them; empty lists mean any.

    >>> cpu_shares("0-3", 2)
    [[0, 2], [1, 3]]
    """
    numbers: list[int] = []
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if len(numbers) < workers:
        return [numbers] * workers
    return [numbers[i::workers] for i in range(workers)]
