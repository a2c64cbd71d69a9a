"""Errors as gRPC's status codes."""

from linewatch.anomaly_model.errors import LinewatchError, PictureError
from linewatch.edge_agent.errors import (
    CallerGoneError,
    DeadlineError,
    ExhaustedError,
    InvalidRequestError,
    NotAllowedError,
    SharedMemoryError,
    UnknownModelError,
    UnknownServiceError,
    WorkerError,
    WrongStateError,
)  # fmt: skip
from linewatch.edge_agent.http2.status import Status

STATUS_CODES: dict[type[LinewatchError], Status] = {
    PictureError: Status.INVALID_ARGUMENT,
    InvalidRequestError: Status.INVALID_ARGUMENT,
    SharedMemoryError: Status.INVALID_ARGUMENT,
    UnknownModelError: Status.NOT_FOUND,
    UnknownServiceError: Status.NOT_FOUND,
    WrongStateError: Status.FAILED_PRECONDITION,
    ExhaustedError: Status.RESOURCE_EXHAUSTED,
    DeadlineError: Status.DEADLINE_EXCEEDED,
    CallerGoneError: Status.CANCELLED,
    NotAllowedError: Status.PERMISSION_DENIED,
    WorkerError: Status.INTERNAL,
}
"""The only place where an error becomes a status; anything else is INTERNAL, and logged with its trace."""


def status_of(error: LinewatchError) -> Status:
    """The code of the nearest class that has one."""
    return next((STATUS_CODES[c] for c in type(error).__mro__ if c in STATUS_CODES), Status.INTERNAL)
