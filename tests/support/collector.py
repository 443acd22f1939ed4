"""A collector of OpenTelemetry on this machine, for tests of traces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from pydantic import HttpUrl

from hilum import tracing
from hilum.settings import TracingSettings


class Collector:
    """A server that keeps what it is sent."""

    def __init__(self) -> None:
        bodies = self.bodies = list[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.settings = TracingSettings(
            endpoint=HttpUrl(f"http://127.0.0.1:{self._server.server_port}/v1/traces")
        )

    def spans(self) -> list[Any]:
        """In the order of their ends, once tracing was closed."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [s for r in requests for of in r.resource_spans for s in of.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def by_name(self) -> dict[str, Any]:
        """As :meth:`spans`, where each name occurs once."""
        return {span.name: span for span in self.spans()}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the block, after which traces are off."""
    collector = Collector()
    try:
        yield collector
    finally:
        tracing.close()
        collector.stop()


def attributes(span: Any) -> dict[str, Any]:
    """What a span carries."""
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
