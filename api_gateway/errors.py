"""Errors of the HTTP side, with the status each error of hilum has there."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from hilum.errors import (
    AccessDeniedError,
    DicomError,
    HilumError,
    IdempotencyKeyReusedError,
    InvalidURIError,
    ObjectMissingError,
    PermanentError,
    TransientError,
)


class UnauthenticatedError(PermanentError):
    """No valid API key came with the request."""

    code = "auth.unauthenticated"
    next_step = "Send `Authorization: Bearer hk_…`; `hilum keys create` makes a key."


class ForbiddenError(PermanentError):
    """The key is valid but lacks a scope."""

    code = "auth.forbidden"
    next_step = "Use a key with the scope named above."


class InvalidRequestError(PermanentError):
    """The request breaks the schema of docs/openapi.json."""

    code = "request.invalid"
    next_step = "Correct the fields listed in `errors`; the schema is at /openapi.json."


class BodyTooLargeError(PermanentError):
    """The body is larger than the gateway reads."""

    code = "request.body_too_large"
    next_step = "Send fewer images a study, or raise HILUM_GATEWAY__MAX_BODY_BYTES."


class BodyTimeoutError(PermanentError):
    """The body did not arrive in time."""

    code = "request.body_timeout"
    next_step = "Send the body in one go; HILUM_GATEWAY__BODY_TIMEOUT_S is how long it may take."


class OverlaysBusyError(TransientError):
    """More overlays are asked for than may wait."""

    code = "cam.busy"
    next_step = "Ask again after the time in Retry-After; HILUM_GATEWAY__RENDER_QUEUE may wait."


class NoSuchRouteError(PermanentError):
    """No such path, or not with this method."""

    code = "request.no_such_route"
    next_step = "See /docs for what there is."


class StudyUnknownError(PermanentError):
    """The tenant has no such study."""

    code = "study.unknown"
    next_step = "Check the id, and that the key belongs to the tenant that sent the study."


class ImageUnknownError(PermanentError):
    """The study has no such image."""

    code = "image.unknown"
    next_step = "List the images with GET /v1/studies/{study_id}/images."


class ImageNotScoredError(PermanentError):
    """There is no result, not yet or not ever."""

    code = "image.not_scored"
    next_step = "Look at the image's status; if it is pending, ask again later."


class LabelUnknownError(PermanentError):
    """The model that scored the image has no such label."""

    code = "cam.label_unknown"
    next_step = "Use one of the labels named above."


class CamNotKeptError(PermanentError):
    """By policy the map was not stored."""

    code = "cam.not_kept"
    next_step = "HILUM_WORKER__CAM_POLICY decides which maps are kept."


class SourceChangedError(PermanentError):
    """The object is not the one that was scored any more."""

    code = "cam.source_changed"
    next_step = "Send the study again to have the object scored as it is now."


class UnexpectedRequestError(PermanentError):
    """A mistake in the gateway."""

    code = "internal.unexpected"
    next_step = "Report this with the request id; nothing of the request was stored in the log."


# The first that matches; subclasses therefore before their bases.
_STATUS: Final[tuple[tuple[type[HilumError], HTTPStatus], ...]] = (
    (UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (InvalidRequestError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidURIError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (IdempotencyKeyReusedError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BodyTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (BodyTimeoutError, HTTPStatus.REQUEST_TIMEOUT),
    (NoSuchRouteError, HTTPStatus.NOT_FOUND),
    (StudyUnknownError, HTTPStatus.NOT_FOUND),
    (ImageUnknownError, HTTPStatus.NOT_FOUND),
    (LabelUnknownError, HTTPStatus.NOT_FOUND),
    (CamNotKeptError, HTTPStatus.NOT_FOUND),
    (ImageNotScoredError, HTTPStatus.CONFLICT),
    (SourceChangedError, HTTPStatus.CONFLICT),
    # The overlay needs the source object, and the store has let go of it.
    (ObjectMissingError, HTTPStatus.GONE),
    (AccessDeniedError, HTTPStatus.BAD_GATEWAY),
    (DicomError, HTTPStatus.CONFLICT),
    (TransientError, HTTPStatus.SERVICE_UNAVAILABLE),
)


def status_of(error: HilumError) -> HTTPStatus:
    """The HTTP status of ``error``."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR
