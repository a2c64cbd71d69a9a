"""The errors of the S3 API: S3's own codes, in XML, and what ours are called there."""

from xml.sax.saxutils import escape

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.errors import ApiError, SkewedClockError
from linewatch.control_plane.objects import (
    BucketNotEmptyError,
    BucketTakenError,
    InvalidNameError,
    NoSuchBucketError,
    NoSuchObjectError,
)


class S3Error(LinewatchError):
    """An error answer of S3."""

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


_OF_API: dict[str, tuple[str, int]] = {
    "MissingAuthenticationTokenException": ("AccessDenied", 403),
    "IncompleteSignatureException": ("AuthorizationHeaderMalformed", 400),
    "UnrecognizedClientException": ("InvalidAccessKeyId", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "AccessDeniedException": ("AccessDenied", 403),
    "RequestEntityTooLargeException": ("EntityTooLarge", 400),
    "RequestTimeoutException": ("RequestTimeout", 400),
    "ThrottlingException": ("SlowDown", 503),
}


_OF_OBJECTS: dict[type[LinewatchError], tuple[str, int]] = {
    NoSuchBucketError: ("NoSuchBucket", 404),
    NoSuchObjectError: ("NoSuchKey", 404),
    InvalidNameError: ("InvalidArgument", 400),
    BucketNotEmptyError: ("BucketNotEmpty", 409),
    BucketTakenError: ("BucketAlreadyExists", 409),
}
_FAULT = ("InternalError", 500)


def translate(error: LinewatchError) -> S3Error:
    """An error of ours as S3 says it."""
    if isinstance(error, S3Error):
        return error
    if isinstance(error, SkewedClockError):
        code, status = "RequestTimeTooSkewed", error.status
    elif isinstance(error, ApiError):
        code, status = _OF_API.get(error.code, _FAULT)
    else:
        code, status = _OF_OBJECTS.get(type(error), _FAULT)
    return S3Error(code, status, str(error))


def render(error: S3Error, resource: str, request_id: str) -> bytes:
    """The XML of an error."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message>"
        f"<Resource>{escape(resource)}</Resource><RequestId>{request_id}</RequestId></Error>"
    ).encode(errors="xmlcharrefreplace")
