"""Every error that the API answers with: code, HTTP status and members, on the class. S3's own are in `linewatch.control_plane.s3_api.errors`.

The codes and statuses of the first group are the service model's; the second group is what AWS's own endpoint answers before
an operation is known. A message says what was found, what was expected and what to do next.
"""

from typing import ClassVar, Literal

from linewatch.anomaly_model.errors import LinewatchError

ResourceType = Literal["PROJECT", "DATASET", "MODEL", "TRIAL", "MODEL_PACKAGE_JOB"]
SERVICE_CODE = "lookoutvision"


class ApiError(LinewatchError):
    """An error answer.

    Attributes:
        code: the error's name on the wire.
        status: HTTP status.
        members: further members of the answer, by their names on the wire.
    """

    code: ClassVar[str] = "InternalServerException"
    status: ClassVar[int] = 500

    def __init__(self, message: str, **members: str | int) -> None:
        super().__init__(message)
        self.members = members


class ValidationError(ApiError):
    """The request breaks a rule that it could have kept."""

    code, status = "ValidationException", 400


class AccessDeniedError(ApiError):
    """The caller's policy does not allow the call."""

    code, status = "AccessDeniedException", 403


class _ResourceError(ApiError):
    def __init__(self, message: str, resource_id: str, resource_type: ResourceType) -> None:
        super().__init__(message, ResourceId=resource_id, ResourceType=resource_type)


class NotFoundError(_ResourceError):
    """There is no such resource."""

    code, status = "ResourceNotFoundException", 404


class ConflictError(_ResourceError):
    """The resource is in a state that does not allow the call, or exists already."""

    code, status = "ConflictException", 409


class QuotaError(ApiError):
    """A quota, which is a setting, is reached.

    Args:
        message: for people.
        quota: name of the setting.
        resource_id: of what was to be made or started.
        resource_type: of the same.
    """

    code, status = "ServiceQuotaExceededException", 402

    def __init__(self, message: str, quota: str, resource_id: str, resource_type: ResourceType) -> None:
        super().__init__(
            message, QuotaCode=quota, ServiceCode=SERVICE_CODE, ResourceId=resource_id, ResourceType=resource_type
        )


class ThrottlingError(ApiError):
    """More calls than can be served now."""

    code, status = "ThrottlingException", 429

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, RetryAfterSeconds=retry_after_s)


class InternalError(ApiError):
    """A fault of ours; details are in the server's log, found by the request id."""

    code, status = "InternalServerException", 500

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, RetryAfterSeconds=retry_after_s)


class InvalidPageTokenError(ApiError):
    """A page token is not one of the list; Rekognition has a code of its own for it."""

    code, status = "InvalidPaginationTokenException", 400


class SerializationError(ApiError):
    """The body is not what the protocol says: not JSON, or a value of the wrong JSON type."""

    code, status = "SerializationException", 400


class UnknownOperationError(ApiError):
    """No operation has this method and path, or this target."""

    code, status = "UnknownOperationException", 404


class BodyTooLargeError(ApiError):
    """The body is over the limit; it was not read."""

    code, status = "RequestEntityTooLargeException", 413


class SlowBodyError(ApiError):
    """The body did not come, or too slowly."""

    code, status = "RequestTimeoutException", 408


class MissingTokenError(ApiError):
    """The request is not signed."""

    code, status = "MissingAuthenticationTokenException", 403


class IncompleteSignatureError(ApiError):
    """The signature lacks a part, or a part is malformed."""

    code, status = "IncompleteSignatureException", 400


class UnknownClientError(ApiError):
    """No such access key, or it has expired."""

    code, status = "UnrecognizedClientException", 403


class InvalidSignatureError(ApiError):
    """The signature is another one, or too old. SDKs correct their clock on this code."""

    code, status = "InvalidSignatureException", 403


class SkewedClockError(InvalidSignatureError):
    """Signed too long ago, or in the future."""


class ExpiredRequestError(AccessDeniedError):
    """A presigned request after its time."""
