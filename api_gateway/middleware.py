"""Around every request: an id, a line in the log, a bound on the body."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_gateway import problems
from api_gateway.errors import BodyTooLargeError, UnexpectedRequestError
from hilum import logs

log = logging.getLogger("api_gateway.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLog:
    """One line a request: method, route *template*, status, seconds and, as far as they became
    known, tenant, key, study and job. Every line said meanwhile has them too, and the request id.

    Never the path itself, the query or a header: they hold ids and keys.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with logs.bind(request=(request_id := secrets.token_hex(8))):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        start = time.monotonic()
        status = 500
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # Type and place only: the text of an exception may hold what the request did.
            log.error("request.failed", exc_info=True)
            if not started:
                failure = UnexpectedRequestError(f"The gateway failed on request {request_id}.")
                await problems.response(failure)(scope, receive, send_with_id)
        finally:
            logs.event(
                log,
                logging.INFO,
                "request",
                method=scope["method"] if scope["method"] in _METHODS else "other",
                route=getattr(scope.get("route"), "path", "unmatched"),
                status=status,
                seconds=round(time.monotonic() - start, 4),
            )


class BodyLimit:
    """Refuses bodies above ``limit`` bytes, declared or not, before they are in memory."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        # The body is read here, whole, so that it can be refused before the application starts.
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                await self._refuse(scope, receive, send)
                return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLargeError(f"The body has more than {self._limit} bytes.")
        await problems.response(error)(scope, receive, send)
