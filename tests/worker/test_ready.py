"""The probe of a worker: ready once every process has an engine."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worker import ready


@contextmanager
def worker_that_says(text: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 1),
        ('hilum_engine_info{engine="onnxruntime-cpu",reason="auto"} 1.0\n', 1),
        ('hilum_engine_info{engine="onnxruntime-cpu",reason="auto"} 2.0\n', 0),
        ('hilum_engine_info{engine="a",reason="b"} 1.0\nhilum_engine_info{engine="c"} 1.0\n', 0),
    ],
)
def test_as_many_engines_as_processes(text: str, code: int) -> None:
    with worker_that_says(text) as port:
        assert ready.main([port, "2"]) == code


def test_a_worker_that_does_not_answer_is_not_ready() -> None:
    with worker_that_says("") as port:
        pass
    assert ready.main([port, "1"]) == 1
