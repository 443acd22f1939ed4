"""API keys: who asks, for which tenant, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api_gateway.errors import ForbiddenError, UnauthenticatedError
from api_gateway.services import ServicesDep
from hilum import logs
from hilum.db import keys
from hilum.db.keys import ApiKey, Scope

_bearer = HTTPBearer(auto_error=False, description="`hk_…`, from `hilum keys create`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="instead of Authorization")


def _key(
    services: ServicesDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> ApiKey:
    secret = bearer.credentials if bearer else header
    if not secret:
        raise UnauthenticatedError("The request carries no API key.")
    with services.database.read() as connection:
        key = keys.find(connection, secret)
    if key is None:
        raise UnauthenticatedError("The API key is not known or has been revoked.")
    logs.add(tenant=key.tenant, key=key.id)
    return key


def requires(scope: Scope) -> Callable[..., ApiKey]:
    """A dependency: the request's key, if it has ``scope``."""

    def check(key: Annotated[ApiKey, Depends(_key)]) -> ApiKey:
        if scope not in key.scopes:
            raise ForbiddenError(f"The API key has no scope {scope.value}.")
        return key

    return check


Writer = Annotated[ApiKey, Depends(requires(Scope.STUDIES_WRITE))]
Reader = Annotated[ApiKey, Depends(requires(Scope.STUDIES_READ))]
