"""Gives every request an id, a line in the log, and headers for browsers."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_gateway import metrics, problems
from api_gateway.errors import UnexpectedRequestError
from hilum import logs, tracing

log = logging.getLogger("api_gateway.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


_HEADERS = (
    (b"cache-control", b"no-store"),  # unless a route sets its own: results are patient data
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_OWN_PAGE = (  # the page of /docs has a script inside the page
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; frame-ancestors 'none'"
)


class AccessLog:
    """Logs one line a request: method, route *template*, status, seconds and, once known, tenant,
    key, study and job. All lines logged meanwhile have these fields and the request id too.

    The path itself, the query and headers are never logged: they contain ids and keys.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with (
            logs.bind(request=(request_id := secrets.token_hex(8))),
            tracing.span("request", parent=_traceparent(scope)),
        ):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        start = time.monotonic()
        status = 500
        started = False
        unread = _has_body(scope)

        async def receive_noting() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                unread = False
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                named = {name.lower() for name, _ in message["headers"]}
                added = [*_HEADERS, (b"content-security-policy", _policy(scope["path"]))]
                if unread:  # nobody will read the body, so no request can follow on this connection
                    added.append((b"connection", b"close"))
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in added if name not in named),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive_noting, send_with_id)
        except Exception:
            # Type and place only: the text of an exception may quote the request.
            log.error("request.failed", exc_info=True)
            if not started:
                failure = UnexpectedRequestError(f"The gateway failed on request {request_id}.")
                await problems.response(failure)(scope, receive, send_with_id)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.monotonic() - start
            tracing.add(method=method, route=route, status=status)
            metrics.count_request(method=method, route=route, status=status, seconds=seconds)
            said = {"method": method, "route": route, "status": status}
            logs.event(log, logging.INFO, "request", **said, seconds=round(seconds, 4))


def _traceparent(scope: Scope) -> str | None:
    if not tracing.is_on():
        return None
    sent = dict(scope["headers"]).get(tracing.TRACEPARENT.encode(), b"")
    return tracing.checked(sent.decode("latin-1"))


def _policy(path: str) -> bytes:
    return _OWN_PAGE if path == "/docs" else _NOTHING


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
