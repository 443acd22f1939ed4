"""Errors of the HTTP side, with the status each error of hilum has there."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

from hilum import errors

define = errors.open_texts(__name__)


class RequestError(errors.PermanentError):
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
OverlaysBusyError = define("OverlaysBusyError", errors.TransientError)
NoSuchRouteError = define("NoSuchRouteError", RequestError)
StudyUnknownError = define("StudyUnknownError", RequestError)
ImageUnknownError = define("ImageUnknownError", RequestError)
ImageNotScoredError = define("ImageNotScoredError", RequestError)
LabelUnknownError = define("LabelUnknownError", RequestError)
CamNotKeptError = define("CamNotKeptError", RequestError)
SourceChangedError = define("SourceChangedError", RequestError)
UnexpectedRequestError = define("UnexpectedRequestError", RequestError)


# Of errors that are not the gateway's own; the first entry that matches counts.
_STATUS: Final[dict[type[errors.HilumError], int]] = {
    errors.CampaignUnknownError: HTTPStatus.NOT_FOUND,
    errors.ModelUnknownError: HTTPStatus.NOT_FOUND,
    errors.CampaignExistsError: HTTPStatus.CONFLICT,
    errors.CampaignStateError: HTTPStatus.CONFLICT,
    errors.ModelUnservedError: HTTPStatus.CONFLICT,
    errors.NothingToRollBackError: HTTPStatus.CONFLICT,
    errors.CampaignError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidURIError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.IdempotencyKeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ObjectMissingError: HTTPStatus.GONE,  # the store has lost the object of the overlay
    errors.FeedbackLabelError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ResultReplacedError: HTTPStatus.CONFLICT,
    errors.JobUnknownError: HTTPStatus.NOT_FOUND,
    errors.JobStateError: HTTPStatus.CONFLICT,
    errors.NothingToRetryError: HTTPStatus.CONFLICT,
    errors.AccessDeniedError: HTTPStatus.BAD_GATEWAY,
    errors.DicomError: HTTPStatus.CONFLICT,
    errors.TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: errors.HilumError) -> int:
    """The HTTP status of ``error``."""
    if isinstance(error, RequestError):
        return error.status
    found = (status for kind, status in _STATUS.items() if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
