"""A camera program's side: what `linewatch detect`, the demo and the benchmarks use, and a model for clients in Python."""

import os
import secrets
import time
from types import TracebackType
from typing import Any, Literal

import grpc
import numpy as np
from google.protobuf import empty_pb2, wrappers_pb2

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.picture import Rgb
from linewatch.edge_agent.api.contract import INSPECTION, MESSAGE_BYTES
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.protos import edge_agent_pb2_grpc as rpc
from linewatch.edge_agent.quoting import quoted, truncated
from linewatch.edge_agent.workers.shared_memory import SEGMENTS

Transport = Literal["shared-memory", "bytes"]
_MESSAGE = 4000


class AgentCallError(LinewatchError):
    """The agent answered with an error, or did not answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(truncated(f"{code}: {message}", _MESSAGE))
        self.code = code


class SharedFrame:
    """One segment of ours for a picture and its mask, reused from frame to frame and unlinked at the end."""

    def __init__(self, mode: int = 0o660) -> None:
        self.name = f"linewatch-{os.getpid()}-{secrets.token_hex(8)}"
        self._path = SEGMENTS / self.name
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self._size = 0

    def write(self, picture: Rgb) -> None:
        """Put a picture at the start; the segment grows to hold its mask behind it."""
        data = np.ascontiguousarray(picture)
        if self._size < 2 * data.nbytes:
            self._size = 2 * data.nbytes
            os.ftruncate(self._descriptor, self._size)
        view, done = data.data.cast("B"), 0
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done:], done)

    def read_mask(self, height: int, width: int) -> Rgb:
        """The mask that the agent wrote behind the picture."""
        size = height * width * 3
        return np.frombuffer(os.pread(self._descriptor, size, size), np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """Unlink the segment."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


class AgentClient:
    """A connection to an agent. Not for several threads at once when pictures go through shared memory."""

    def __init__(self, address: str, timeout_s: float = 60) -> None:
        limits = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(address, options=limits)
        self._stub = rpc.EdgeAgentStub(self._channel)  # type: ignore[no-untyped-call]
        self._address, self._timeout = address, timeout_s
        self._frame: SharedFrame | None = None

    def __enter__(self) -> "AgentClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and unlink the shared memory."""
        self._channel.close()
        self._drop_frame()

    def _drop_frame(self) -> None:
        frame, self._frame = self._frame, None
        if frame is not None:
            frame.close()

    def call(self, name: str, request: Any) -> Any:
        """Make one of the service's calls, by its name.

        Raises:
            AgentCallError: the agent answered with an error, or no agent answers.
        """
        return self._called(getattr(self._stub, name), request)

    def _called(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()
            if code == "UNAVAILABLE":
                details = f"no agent answers on {self._address}; start one with: linewatch agent --models DIR ({details})"
            raise AgentCallError(code, details or "") from None

    def wait_until_listening(self, seconds: float) -> None:
        """Wait for an agent that is being started.

        Raises:
            AgentCallError: none answered in time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise AgentCallError("UNAVAILABLE", f"no agent answered on {self._address} within {seconds:.0f} s") from None

    def models(self) -> list[Any]:
        """ModelMetadata of each installed model."""
        return list(self.call("ListModels", pb.ListModelsRequest()).models)

    def describe(self, model: str) -> Any:
        """ModelDescription of one model."""
        return self.call("DescribeModel", pb.DescribeModelRequest(model_component=model)).model_description

    def start(self, model: str, seconds: float = 120) -> None:
        """Start a model unless it runs, and wait until it does.

        Raises:
            AgentCallError: it failed, with its status message, or took too long.
        """
        if self.describe(model).status in (State.STOPPED, State.FAILED):
            self.call("StartModel", pb.StartModelRequest(model_component=model))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            description = self.describe(model)
            if description.status == State.RUNNING:
                return
            if description.status == State.FAILED:
                raise AgentCallError("FAILED_PRECONDITION", f"model {quoted(model)} failed to start: {description.status_message}")
            time.sleep(0.05)
        raise AgentCallError("DEADLINE_EXCEEDED", f"model {quoted(model)} was not RUNNING after {seconds:.0f} s")

    def metrics(self) -> str:
        """The agent's metrics in Prometheus's text format.

        Raises:
            AgentCallError: the agent answered with an error, or no agent answers.
        """
        read = self._channel.unary_unary(
            f"/{INSPECTION}/Metrics", request_serializer=empty_pb2.Empty.SerializeToString, response_deserializer=wrappers_pb2.StringValue.FromString
        )
        return str(self._called(read, empty_pb2.Empty()).value)

    def stop(self, model: str) -> None:
        """Stop a running model."""
        self.call("StopModel", pb.StopModelRequest(model_component=model))

    def detect(self, picture: Rgb, model: str, transport: Transport = "shared-memory") -> tuple[Any, Rgb | None]:
        """Inspect a picture (H x W x 3 uint8 RGB): DetectAnomalyResult, and the mask if the model makes one."""
        height, width = picture.shape[:2]
        bitmap = pb.Bitmap(width=width, height=height)
        request = pb.DetectAnomaliesRequest(model_component=model, bitmap=bitmap)
        size = height * width * 3
        if transport == "bytes":
            request.bitmap.byte_data = np.ascontiguousarray(picture).tobytes()
        else:
            if self._frame is None:
                self._frame = SharedFrame()
            self._frame.write(picture)
            request.bitmap.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=self._frame.name, size=size))
            request.anomaly_mask_params.shared_memory_handle.CopyFrom(
                pb.SharedMemoryHandle(name=self._frame.name, size=size, offset=size)
            )
        try:
            result = self.call("DetectAnomalies", request).detect_anomaly_result
        except BaseException:
            self._drop_frame()  # the agent may still be at it: what it writes late must not lie in the next picture's frame
            raise
        mask = None
        if result.HasField("anomaly_mask"):
            if transport == "bytes":
                mask = np.frombuffer(result.anomaly_mask.byte_data, np.uint8).reshape(height, width, 3)
            elif self._frame is not None:
                mask = self._frame.read_mask(height, width)
        return result, mask
