"""The gateway under load.

``health_under_overlays``: ``/healthz`` answers within 100 ms (99th percentile) while 150 overlay
requests of a large film have been sent and abandoned; a probe that times out has the gateway
restarted. Beside it, the same percentile of submitted studies in that time.

``python -m benchmarks.gateway --json`` starts the whole embedded system in a temporary folder.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import films
from benchmarks.report import Line, machine
from hilum.db import keys
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.embedded.client import Client
from hilum.embedded.stack import Stack
from hilum.settings import Limits
from hilum.storage import open_store

OVERLAYS: Final = 150
ALLOWED_S: Final = 0.1
_URI: Final = "s3://hilum-bench/film.dcm"


def health_under_overlays(*, looks: int) -> Iterator[Line]:
    """Measure both percentiles, first without other load, then with abandoned overlays."""
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        with Database(stack.database_url) as database, database.write() as connection:
            _, secret = keys.create(connection, tenant="bench", name="b", scopes=list(Scope))
        open_store(stack.s3, Limits()).write(_URI, films.film("native"))
        client = Client(stack.url, secret)
        host, port = stack.url.removeprefix("http://").split(":")
        cam = _scored(client) + "&format=png"
        key = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        body = json.dumps({"images": [{"uri": _URI}], "priority": "bulk"}).encode()

        def health() -> None:
            _ask(host, int(port), "GET", "/healthz", {}, None, 200)

        def submit() -> None:
            headers = {**key, "Idempotency-Key": secrets.token_hex(8)}
            _ask(host, int(port), "POST", "/v1/studies", headers, body, 202)

        for name, action in (("/healthz", health), ("submission", submit)):
            idle = _p99(action, looks)
            head = f"GET {cam} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {secret}\r\n\r\n"
            links = [socket.create_connection((host, int(port))) for _ in range(OVERLAYS)]
            for link in links:
                link.sendall(head.encode())
                link.close()
            busy = _p99(action, looks)
            yield Line(
                claim="health_under_overlays" if name == "/healthz" else "submit_under_overlays",
                case=f"{name} p99, {OVERLAYS} abandoned (idle {idle * 1000:.1f} ms)",
                value=busy * 1000,
                peer="allowed",
                peer_value=ALLOWED_S * 1000,
                ratio=ALLOWED_S / busy,
                target=1.0 if name == "/healthz" else 0.0,
                unit="ms",
            )


def _scored(client: Client) -> str:
    """The address of a map of a film that a worker scored."""
    study = client.post(
        "/v1/studies", {"images": [{"uri": _URI}], "priority": "stat"}, idempotency_key="first"
    )
    while True:
        state = client.get(study["status_url"])
        (image,) = state["images"]["images"]
        if state["status"] == "completed":
            maps: dict[str, str] = image["result"]["cam"]
            return next(iter(maps.values()))
        time.sleep(0.2)


def _ask(
    host: str,
    port: int,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    expected: int,
) -> None:
    link = http.client.HTTPConnection(host, port, timeout=60)
    link.request(method, path, body=body, headers=headers)
    answer = link.getresponse()
    answer.read()
    link.close()
    if answer.status != expected:
        raise SystemExit(f"{method} {path} returned {answer.status} instead of {expected}.")


def _p99(action: Callable[[], None], looks: int) -> float:
    """The seconds of each of ``looks`` successive requests."""
    taken = []
    for _ in range(looks):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return float(np.percentile(taken, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    for line in health_under_overlays(looks=50 if arguments.quick else 300):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
