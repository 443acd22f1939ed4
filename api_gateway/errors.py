"""Errors of the HTTP side, with the status each error of hilum has there."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

from hilum.errors import (
    AccessDeniedError,
    DicomError,
    FeedbackLabelError,
    HilumError,
    IdempotencyKeyReusedError,
    InvalidURIError,
    JobStateError,
    JobUnknownError,
    NothingToRetryError,
    ObjectMissingError,
    PermanentError,
    ResultReplacedError,
    TransientError,
)


class RequestError(PermanentError):
    """The gateway refuses a request, or fails on it."""

    status: ClassVar[HTTPStatus]


class UnauthenticatedError(RequestError):
    """No valid API key came with the request."""

    code = "auth.unauthenticated"
    status = HTTPStatus.UNAUTHORIZED
    next_step = "Send `Authorization: Bearer hk_…`; `hilum keys create` creates a key."


class ForbiddenError(RequestError):
    """The key is valid but lacks a scope."""

    code = "auth.forbidden"
    status = HTTPStatus.FORBIDDEN
    next_step = "Use a key with the scope named above."


class InvalidRequestError(RequestError):
    """The request breaks the schema of docs/openapi.json."""

    code = "request.invalid"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    next_step = "Correct the fields listed in `errors`; the schema is at /openapi.json."


class BodyTooLargeError(RequestError):
    """The body is larger than the gateway reads."""

    code = "request.body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    next_step = "Send fewer images a study, or raise HILUM_GATEWAY__MAX_BODY_BYTES."


class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""

    code = "request.body_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT
    next_step = "Send the body without pauses; HILUM_GATEWAY__BODY_TIMEOUT_S limits its duration."


class OverlaysBusyError(TransientError):
    """Too many overlays are being rendered."""

    code = "cam.busy"
    next_step = "Repeat the request after Retry-After, or raise HILUM_GATEWAY__RENDER_QUEUE."


class NoSuchRouteError(RequestError):
    """The path does not exist, or not with this method."""

    code = "request.no_such_route"
    status = HTTPStatus.NOT_FOUND
    next_step = "See /docs for all routes."


class StudyUnknownError(RequestError):
    """The tenant has no such study."""

    code = "study.unknown"
    status = HTTPStatus.NOT_FOUND
    next_step = "Check the id, and that the key belongs to the tenant that sent the study."


class ImageUnknownError(RequestError):
    """The study has no such image."""

    code = "image.unknown"
    status = HTTPStatus.NOT_FOUND
    next_step = "List the images with GET /v1/studies/{study_id}/images."


class ImageNotScoredError(RequestError):
    """The image has no result."""

    code = "image.not_scored"
    status = HTTPStatus.CONFLICT
    next_step = "Read the status of the image. If it is pending, repeat the request later."


class LabelUnknownError(RequestError):
    """The model that scored the image has no such label."""

    code = "cam.label_unknown"
    status = HTTPStatus.NOT_FOUND
    next_step = "Use one of the labels named above."


class CamNotKeptError(RequestError):
    """The map was not stored, by policy."""

    code = "cam.not_kept"
    status = HTTPStatus.NOT_FOUND
    next_step = "HILUM_WORKER__CAM_POLICY decides which maps are stored."


class SourceChangedError(RequestError):
    """The object has changed since it was scored."""

    code = "cam.source_changed"
    status = HTTPStatus.CONFLICT
    next_step = "Send the study again to score the object as it is now."


class UnexpectedRequestError(RequestError):
    """Internal error of the gateway."""

    code = "internal.unexpected"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    next_step = "Report this with the request id; nothing of the request was stored in the log."


# Of errors that are not the gateway's own; the first entry that matches counts.
_STATUS: Final[dict[type[HilumError], HTTPStatus]] = {
    InvalidURIError: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyKeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ObjectMissingError: HTTPStatus.GONE,  # the overlay needs the object, which the store has lost
    FeedbackLabelError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ResultReplacedError: HTTPStatus.CONFLICT,
    JobUnknownError: HTTPStatus.NOT_FOUND,
    JobStateError: HTTPStatus.CONFLICT,
    NothingToRetryError: HTTPStatus.CONFLICT,
    AccessDeniedError: HTTPStatus.BAD_GATEWAY,
    DicomError: HTTPStatus.CONFLICT,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: HilumError) -> HTTPStatus:
    """The HTTP status of ``error``."""
    if isinstance(error, RequestError):
        return error.status
    found = (status for kind, status in _STATUS.items() if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
