"""``python -m benchmarks.pipeline [--before PATH] [--only CLAIM …] [--json]``: the whole pipeline.

- ``pipeline_vs_before``: films a second of ``hilum score`` on a folder, and of a worker from S3 to
  SQL with all maps, for studies of many films and of one; against the checkout at PATH.
- ``pipeline_vs_limit``, ``stat_under_bulk`` and ``results_rows_per_s``: see
  :mod:`benchmarks.pipeline_limit`. The last needs the address of an empty PostgreSQL database in
  ``$BENCHMARK_POSTGRESQL``.

For the first, both trees run in turn, each in processes of its own, with the demo model on films of
the sample folder, each under a UID of its own. The ratio is the median over pairs. The machine
is in the case's name: figures of two machines say nothing about each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom

from benchmarks import pipeline_limit
from benchmarks.report import Line, machine

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("pipeline_child.py")
TARGET = 1.0


def films(folder: Path, count: int) -> None:
    """Write ``count`` chest films that are different instances."""
    samples = [path.read_bytes() for path in sorted((ROOT / "models/samples").glob("*.dcm"))]
    for n in range(count):
        film = pydicom.dcmread(BytesIO(samples[n % len(samples)]))
        film.SOPInstanceUID = f"{film.SOPInstanceUID}.{n + 1}"[-64:].lstrip(".0")
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        film.save_as(folder / f"{n:04}.dcm")


def run(tree: Path, folder: Path, sizes: list[int]) -> dict[str, float]:
    """Films per second of the code in ``tree``, by path."""
    environment = {name: value for name, value in os.environ.items() if "HILUM_" not in name}
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), *map(str, sizes)],
        cwd=tree,
        env={**environment, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(before: Path, *, pairs: int, count: int, sizes: list[int]) -> Iterator[Line]:
    """Yield the lines."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        films(folder, count)
        rounds = [
            (run(ROOT, folder, sizes), run(before.resolve(), folder, sizes)) for _ in range(pairs)
        ]
    for name in rounds[0][0]:
        ours, theirs = zip(*((ours[name], theirs[name]) for ours, theirs in rounds), strict=True)
        yield Line(
            claim="pipeline_vs_before",
            case=f"{name} ({machine()})",
            value=statistics.median(ours),
            peer="before",
            peer_value=statistics.median(theirs),
            ratio=statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
            target=TARGET,
            unit="films/s",
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--only", nargs="*", default=[], help="claims; by default all")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and films")
    arguments = parser.parse_args()
    quick = arguments.quick
    pairs, count, sizes = (3, 34, [16, 1]) if quick else (7, 202, [100, 1])
    claims: dict[str, Iterator[Line]] = {
        "pipeline_vs_limit": pipeline_limit.pipeline_vs_limit(
            count=20 if quick else 100,
            sizes=[20, 2, 1] if quick else [100, 2, 1],
            repeats=5 if quick else 20,
        ),
        "stat_under_bulk": pipeline_limit.stat_under_bulk(looks=10 if quick else 40),
    }
    if arguments.before:
        claims["pipeline_vs_before"] = measure(
            arguments.before, pairs=pairs, count=count, sizes=sizes
        )
    if address := os.environ.get("BENCHMARK_POSTGRESQL"):
        claims["results_rows_per_s"] = pipeline_limit.results_rows_per_s(
            address, rows=6_400 if quick else 100_000
        )
    if not arguments.json:
        print(machine())
    for claim, lines in claims.items():
        if arguments.only and claim not in arguments.only:
            continue
        for line in lines:
            print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
