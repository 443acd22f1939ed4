"""Maps every failure to ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api_gateway.errors import (
    InvalidRequestError,
    NoSuchRouteError,
    status_of,
)
from hilum.errors import HilumError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "5"
_MAX_FIELDS = 20
_MAX_TEXT = 200


class FieldProblem(BaseModel):
    """One field that breaks the schema. Its value is not repeated."""

    pointer: str = Field(description="JSON pointer into the request", examples=["/body/images/0"])
    detail: str


class Problem(BaseModel):
    """RFC 9457, with the stable code of hilum and the next step."""

    type: str = Field(examples=["urn:hilum:error:study.unknown"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["study.unknown"])
    next_step: str
    transient: bool = Field(description="whether the same request may succeed later")
    errors: list[FieldProblem] | None = None


def response(
    error: HilumError, *, status: int | None = None, errors: list[FieldProblem] | None = None
) -> JSONResponse:
    """The answer for ``error``."""
    code = status_of(error) if status is None else status
    body = error.body()
    problem = Problem(
        type=f"urn:hilum:error:{error.code}",
        title=(type(error).__doc__ or error.code).splitlines()[0],
        status=code,
        errors=errors,
        **body,
    )
    headers = {}
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if code == 503:
        headers["Retry-After"] = _RETRY_AFTER_S
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=code, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Map the failures of ``app``. The outermost middleware catches unexpected exceptions."""

    @app.exception_handler(HilumError)
    def _hilum(_request: Request, error: HilumError) -> JSONResponse:
        answer = response(error)
        if answer.status_code == 500:
            log.error("request.failed", exc_info=error)
        return answer

    @app.exception_handler(RequestValidationError)
    def _validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        fields = [_field(item) for item in found[:_MAX_FIELDS]]
        shown = f"; the first {_MAX_FIELDS} are listed" if len(found) > _MAX_FIELDS else ""
        raised = InvalidRequestError(f"{len(found)} field(s) break the schema{shown}.")
        return response(raised, errors=fields)

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code in {404, 405}:
            raised: HilumError = NoSuchRouteError(f"{error.detail}.")
        else:
            raised = InvalidRequestError(f"{error.detail}.")
        return response(raised, status=error.status_code)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The value of ``responses`` for a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": "Problem (RFC 9457)", "content": content}
        for status in (401, 403, *statuses, 503)
    }


def _field(item: dict[str, Any]) -> FieldProblem:
    # pydantic's `input` and `ctx` contain the value: they are left out.
    pointer = "/" + "/".join(str(part)[:_MAX_TEXT] for part in item["loc"])
    # A name from the client may contain half a surrogate pair, which no answer can.
    pointer = pointer[:_MAX_TEXT].encode(errors="backslashreplace").decode()
    return FieldProblem(pointer=pointer, detail=item["msg"][:_MAX_TEXT])
