"""API keys: who sends a request, for which tenant, and what the key allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api_gateway.errors import ForbiddenError, UnauthenticatedError
from api_gateway.services import Services, services
from hilum import logs
from hilum.db import keys
from hilum.db.keys import ApiKey, Scope

_bearer = HTTPBearer(auto_error=False, description="`hk_…`, from `hilum keys create`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="instead of Authorization")


async def authenticate(request: Request, scopes: Iterable[Scope]) -> None:
    """Find the key of ``request`` and keep it with the request, before the body is read.

    Raises:
        UnauthenticatedError: the request has no valid key.
        ForbiddenError: the key lacks one of ``scopes``.
    """
    bearer = await _bearer(request)
    secret = bearer.credentials if bearer else await _header(request)
    if not secret:
        raise UnauthenticatedError("The request carries no API key.")
    key = await run_in_threadpool(_find, services(request), secret)
    if key is None:
        raise UnauthenticatedError("The API key is unknown or has been revoked.")
    logs.add(tenant=key.tenant, key=key.id)
    for scope in scopes:
        require(key, scope)
    request.state.key = key


def _find(services: Services, secret: str) -> ApiKey | None:
    with services.database.read() as connection:
        return keys.find(connection, secret)


def requires(scope: Scope) -> Callable[..., Awaitable[ApiKey]]:
    """A dependency: the key of the request, which must have ``scope``.

    :class:`api_gateway.door.GuardedRoute` has checked both; the security schemes are named for
    the OpenAPI document.
    """

    async def get_key(
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        _header: Annotated[str | None, Security(_header)],
    ) -> ApiKey:
        return cast(ApiKey, request.state.key)

    get_key.scope = scope  # type: ignore[attr-defined] # read by GuardedRoute
    return get_key


def require(key: ApiKey, scope: Scope) -> None:
    """Raise :class:`ForbiddenError`, which names ``scope``, unless ``key`` has it."""
    if scope not in key.scopes:
        raise ForbiddenError(f"The API key has no scope {scope.value}.")


Writer = Annotated[ApiKey, Depends(requires(Scope.SUBMIT))]
Reader = Annotated[ApiKey, Depends(requires(Scope.READ))]
FeedbackGiver = Annotated[ApiKey, Depends(requires(Scope.FEEDBACK))]
Admin = Annotated[ApiKey, Depends(requires(Scope.ADMIN))]
