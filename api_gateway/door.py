"""The order of checks: the key and its scope first, then the body within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api_gateway.auth import authenticate
from api_gateway.errors import BodyTimeoutError, BodyTooLargeError
from api_gateway.overlays import ClientGoneError
from api_gateway.services import services
from hilum.settings import GatewaySettings

_CLIENT_GONE = 499  # for the log only: nobody reads the answer


class GuardedRoute(APIRoute):
    """A route that reads a body only for a valid key, within limits of size and time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check the key and read the body, then continue with FastAPI's handler."""
        handle = super().get_route_handler()
        scopes = set(_scopes(self.dependant))
        reads = self.body_field is not None

        async def check_and_handle(request: Request) -> Response:
            if scopes:
                await authenticate(request, scopes)
            if reads:
                body = await _read_body(request, services(request).settings.gateway)
                request = Request(request.scope, _replay(body, request))
            elif scopes and await request.is_disconnected():
                return Response(status_code=_CLIENT_GONE)
            try:
                return await handle(request)
            except ClientGoneError:
                return Response(status_code=_CLIENT_GONE)

        return check_and_handle


def _scopes(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        if (scope := getattr(dependency.call, "scope", None)) is not None:
            yield scope
        yield from _scopes(dependency)


async def _read_body(request: Request, limits: GatewaySettings) -> bytes:
    """Read the body.

    Raises:
        BodyTooLargeError: the body, or its declared length, exceeds ``limits.max_body_bytes``.
        BodyTimeoutError: the body did not arrive within ``limits.body_timeout_s``.
    """
    limit = limits.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise BodyTimeoutError(
            f"The body did not arrive within {limits.body_timeout_s:g} s."
        ) from None
    except ClientDisconnect:
        raise BodyTimeoutError(
            "The client closed the connection before the whole body had arrived."
        ) from None
    return bytes(body)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body has more than {limit} bytes.")


def _replay(body: bytes, request: Request) -> Callable[[], Coroutine[Any, Any, Message]]:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await request.receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
