"""Errors of the HTTP side, with the status each error of hilum has there."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

from hilum.errors import (
    AccessDeniedError,
    DicomError,
    HilumError,
    IdempotencyKeyReusedError,
    InvalidURIError,
    ObjectMissingError,
    PermanentError,
    TransientError,
    open_texts,
)

define = open_texts(__name__)


class RequestError(PermanentError):
    """The gateway refuses a request, or fails on it."""

    status: ClassVar[int]


UnauthenticatedError = define("UnauthenticatedError", RequestError)
ForbiddenError = define("ForbiddenError", RequestError)
InvalidRequestError = define("InvalidRequestError", RequestError)


class BodyTooLargeError(RequestError):
    """The body is larger than the gateway reads."""

    code = "request.body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    next_step = "Send fewer images a study, or raise HILUM_GATEWAY__MAX_BODY_BYTES."


BodyTimeoutError = define("BodyTimeoutError", RequestError)
OverlaysBusyError = define("OverlaysBusyError", TransientError)
NoSuchRouteError = define("NoSuchRouteError", RequestError)
StudyUnknownError = define("StudyUnknownError", RequestError)
ImageUnknownError = define("ImageUnknownError", RequestError)
ImageNotScoredError = define("ImageNotScoredError", RequestError)
LabelUnknownError = define("LabelUnknownError", RequestError)
CamNotKeptError = define("CamNotKeptError", RequestError)
SourceChangedError = define("SourceChangedError", RequestError)
UnexpectedRequestError = define("UnexpectedRequestError", RequestError)


# Of errors that are not the gateway's own; the first entry that matches counts.
_STATUS: Final[dict[type[HilumError], int]] = {
    InvalidURIError: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyKeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ObjectMissingError: HTTPStatus.GONE,  # the overlay needs the object, which the store has lost
    AccessDeniedError: HTTPStatus.BAD_GATEWAY,
    DicomError: HTTPStatus.CONFLICT,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: HilumError) -> int:
    """The HTTP status of ``error``."""
    if isinstance(error, RequestError):
        return error.status
    found = (status for kind, status in _STATUS.items() if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
