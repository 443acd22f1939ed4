"""A proxy between a worker and S3 that answers for it, breaks off, or is slow."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Answer(StrEnum):
    """What the proxy does with a request."""

    PASS = "pass"
    UNAVAILABLE = "503"
    FORBIDDEN = "403"
    NOT_ALLOWED = "405"
    SLOW = "slow"  # the content comes in pieces, over three seconds
    PARTIAL = "partial"  # the connection ends in the middle of the content


_ERRORS = {
    Answer.UNAVAILABLE: (503, "SlowDown"),
    Answer.FORBIDDEN: (403, "AccessDenied"),
    Answer.NOT_ALLOWED: (405, "MethodNotAllowed"),
}


class S3Proxy:
    """Listens on a free loopback port. ``choose`` says, by the path of an object, what to do."""

    def __init__(self, upstream: str) -> None:
        self.choose: Callable[[str], Answer] = lambda _: Answer.PASS
        self.counts = dict.fromkeys(Answer, 0)
        outer, target = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._handle(self, target)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address for ``HILUM_S3__ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler, target: str) -> None:
        answer = self.choose(request.path)
        self.counts[answer] += 1
        if answer in _ERRORS:
            status, code = _ERRORS[answer]
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self._send(request, status, [("Content-Type", "application/xml")], body)
            return
        upstream = http.client.HTTPConnection(target, timeout=60)
        try:
            # The signature covers the header Host: it stays that of the proxy.
            upstream.request(request.command, request.path, headers=dict(request.headers))
            response = upstream.getresponse()
            body = response.read()
            kept = [h for h in response.getheaders() if h[0].lower() not in _HOP]
            self._send(request, response.status, kept, body, answer)
        except OSError:
            request.close_connection = True
        finally:
            upstream.close()

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        answer: Answer = Answer.PASS,
    ) -> None:
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        middle = len(body) // 2
        request.wfile.write(body[:middle])
        request.wfile.flush()
        if answer is Answer.PARTIAL:
            request.close_connection = True
            return
        if answer is Answer.SLOW:
            time.sleep(3)
        request.wfile.write(body[middle:])


_HOP = {"content-length", "connection", "transfer-encoding", "date", "server"}
