"""One side of ``benchmarks.pipeline``: run as a file with the tree to measure on ``PYTHONPATH``.

It uses what every version has: the command line, the embedded stack, the HTTP API and the table of
jobs. Prints one JSON object: films a second.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE_S = 300
BATCH = 8


def score(folder: Path) -> float:
    """Time ``hilum score``, from its first batch to its last line."""
    times: list[float] = []
    command = [sys.executable, "-m", "hilum", "score", "--json", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            assert json.loads(line)["status"] == "scored", line
            times.append(time.perf_counter())
    return (len(times) - BATCH) / (times[-1] - times[BATCH - 1])


def worker(folder: Path, sizes: list[int]) -> dict[str, float]:
    """Time the worker from S3 to SQL with all maps, for studies of each of these sizes."""
    from hilum.embedded import demo
    from hilum.embedded.client import Client
    from hilum.embedded.stack import Stack
    from hilum.settings import Limits
    from hilum.storage import open_store

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as var, Stack(Path(var)) as stack:
        store = open_store(stack.s3, Limits())
        paths = sorted(folder.iterdir())
        for path in paths:
            store.write(f"s3://films/{path.name}", path.read_bytes())
        client = Client(stack.url, demo.api_key(stack, Path(var) / "key"))
        uris = [f"s3://films/{path.name}" for path in paths]
        _run(client, Path(var), [[uris.pop()] for _ in range(2)], "warm")
        for size in sizes:
            share = len(uris) // len(sizes) // size * size
            mine, uris = uris[:share], uris[share:]
            studies = [mine[at : at + size] for at in range(0, share, size)]
            found[f"studies of {size}"] = share / _run(client, Path(var), studies, str(size))
    return found


def _run(client: object, var: Path, studies: list[list[str]], name: str) -> float:
    """Seconds until all these studies are completed."""
    start = time.perf_counter()
    for n, uris in enumerate(studies):
        # Not `stat`, whose images go to the engine at once, in small batches.
        body = {"priority": "routine", "images": [{"uri": uri} for uri in uris]}
        client.post("/v1/studies", body, idempotency_key=f"{name}-{n}")  # type: ignore[attr-defined]
    # Ask the database, because an answer of the API costs time of its own.
    with sqlite3.connect(f"file:{var / 'hilum.db'}?mode=ro", uri=True) as database:
        while database.execute("SELECT 1 FROM jobs WHERE status != 'completed'").fetchone():
            assert time.perf_counter() - start < PATIENCE_S, "the jobs do not end"
            time.sleep(0.01)
    return time.perf_counter() - start


def main() -> None:
    """``pipeline_child.py FOLDER SIZE …``: films of the folder; sizes of studies."""
    import hilum

    assert Path(hilum.__file__).is_relative_to(os.environ["PYTHONPATH"]), "another tree"
    folder, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
    print(json.dumps({"hilum score": score(folder), **worker(folder, sizes)}))


if __name__ == "__main__":
    main()
