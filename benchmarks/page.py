"""The page that shows a study: how long a large one takes, and how many SQL statements.

``study_page``: 1,000 scored images of ``GET /v1/studies/{id}/images`` within 100 ms of CPU time, on
SQLite. ``study_statements``: ``GET /v1/studies/{id}`` with 100 scored images in at most 6 SQL
statements.

``python -m benchmarks.page --json`` fills a database in a temporary folder and asks the application
itself, without a network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine, event

from api_gateway.app import create_app
from benchmarks.report import Line, machine
from hilum.db import jobs, keys, migrate, models, studies
from hilum.db.claims import Scored
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.db.results import NewResult
from hilum.embedded import bundled
from hilum.finding import Finding
from hilum.packages.load import verify
from hilum.packages.manifest import Manifest
from hilum.queue import Queue
from hilum.settings import Settings

IMAGES: Final = 1000
ALLOWED_S: Final = 0.1
ALLOWED_STATEMENTS: Final = 6


def measure(*, repeats: int) -> Iterator[Line]:
    """Measure both claims."""
    manifest = verify(bundled.folder("demo")).manifest
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'hilum.db'}"
        migrate.upgrade(url)
        with Database(url) as database:
            with database.write() as connection:
                _, secret = keys.create(connection, tenant="b", name="b", scopes=list(Scope))
            page = f"/v1/studies/{_scored_study(database, manifest, IMAGES)}/images?limit={IMAGES}"
            small = f"/v1/studies/{_scored_study(database, manifest, 100)}"
        with asyncio.Runner() as runner:
            app = create_app(Settings(database_url=url))
            runner.run(_start(app))
            for path in (page, small):
                document = json.loads(runner.run(_get(app, path, secret)))
                images = document["images"] if path == page else document["images"]["images"]
                if any(image["result"] is None for image in images):
                    raise SystemExit("An image of the page has no result.")
            taken = []
            for _ in range(repeats):
                start = time.process_time()  # of all threads
                runner.run(_get(app, page, secret))
                taken.append(time.process_time() - start)
            with _statements() as seen:
                runner.run(_get(app, small, secret))
    median = statistics.median(taken)
    yield Line(
        claim="study_page",
        case=f"{IMAGES} images, CPU",
        value=median * 1000,
        peer="allowed",
        peer_value=ALLOWED_S * 1000,
        ratio=ALLOWED_S / median,
        target=1.0,
        unit="ms",
    )
    yield Line(
        claim="study_statements",
        case="100 images",
        value=len(seen),
        peer="allowed",
        peer_value=ALLOWED_STATEMENTS,
        ratio=ALLOWED_STATEMENTS / len(seen),
        target=1.0,
        unit="SQL",
    )


def _scored_study(database: Database, manifest: Manifest, count: int) -> str:
    """A study whose images have all been scored."""
    uris = [f"s3://bench/{n}.dcm" for n in range(count)]
    made = studies.submit(database, tenant="b", queue=Queue.BULK, uris=uris)
    with database.write() as connection:
        model_id = models.register(connection, **manifest.registration())
        claim = jobs.claim(connection, made.job_id, lease_s=600, max_unreported=5)
        assert claim is not None
        ended = [
            Scored(image_id=image.image_id, result=_result(manifest, model_id, f"{count}.{n}"))
            for n, image in enumerate(claim.pending)
        ]
        jobs.record(connection, claim, ended, lease_s=600)
    return made.study_id


def _result(manifest: Manifest, model_id: int, name: str) -> NewResult:
    labels = manifest.label_set.labels
    p = np.random.default_rng(0).random(len(labels), dtype=np.float32)
    return NewResult(
        sop_instance_uid=f"1.2.3.{name}",
        series_instance_uid="1.2.3.1",
        study_instance_uid="1.2.3.2",
        content_sha256=name.encode().ljust(32, b"."),
        model_id=model_id,
        pipeline="0000-benchmark",
        rows=2500,
        columns=2048,
        raw=p,
        probability=p,
        findings=tuple(Finding(label=each, probability=0.9, threshold=0.5) for each in labels[:2]),
        cam=np.ones((len(labels), *manifest.cam_grid), dtype=np.float32),
        cam_labels=tuple(range(len(labels))),
        engine="onnxruntime-cpu",
        flags=("view_unknown",),
    )


@contextmanager
def _statements() -> Iterator[list[str]]:
    """The SQL statements of the block, without BEGIN."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


async def _start(app: Any) -> None:
    """Start the application as a server does."""
    await app.router.lifespan_context(app).__aenter__()


async def _get(app: Any, path: str, secret: str) -> bytes:
    """The body of the answer of the ASGI application ``app``."""
    body = b""
    path, _, query = path.partition("?")

    async def send(message: Any) -> None:
        nonlocal body
        if message.get("status", 200) != 200:
            raise SystemExit(f"GET {path} returned {message['status']}.")
        body += message.get("body", b"")

    async def receive() -> Any:
        await asyncio.sleep(3600)  # the client stays connected

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {secret}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    for line in measure(repeats=5 if arguments.quick else 30):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
