"""What the agent can answer besides a result. `linewatch.edge_agent.api.status` maps these to gRPC status codes."""

from linewatch.anomaly_model.errors import LinewatchError


class InvalidRequestError(LinewatchError):
    """An argument of a call is wrong."""


class SharedMemoryError(InvalidRequestError):
    """A shared memory handle cannot be used."""


class UnknownModelError(LinewatchError):
    """No model of that name is installed."""


class WrongStateError(LinewatchError):
    """The model is not in a state that allows the call."""


class ExhaustedError(LinewatchError):
    """Too little memory to start, or too many calls waiting."""


class WorkerError(LinewatchError):
    """A model's worker process died or did not answer."""


class InvalidOutputError(WorkerError):
    """A model gave something that no verdict can be made of, such as NaN."""


class DeadlineError(LinewatchError):
    """The call's deadline was over before a worker was free."""


class CallerGoneError(LinewatchError):
    """The caller left: it cancelled the call, or closed its connection."""


class NotAllowedError(LinewatchError):
    """The caller's user may not call."""


class UnknownServiceError(LinewatchError):
    """No service of that name is here."""
