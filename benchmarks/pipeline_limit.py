"""The worker against what the machine allows, and urgent studies under a bulk run.

- ``pipeline_vs_limit``: films a second of a worker from S3 to SQL with all maps, for studies of
  100, 2 and 1 films, native, JPEG 2000 and from the prepared-image cache; against the cores of the
  machine divided by the CPU-seconds of a film: decode, engine, one S3 GET at the server and its
  share of a batched commit, each measured alone. The CPU-seconds of each process are printed.
- ``stat_under_bulk``: the 95th percentile of the time from a study of one film being accepted (202)
  to being completed in SQL, idle against under a saturating bulk run.
- ``results_rows_per_s``: rows of results a second that a worker's transactions write on PostgreSQL,
  batches of 64.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from benchmarks import films
from benchmarks.report import Line, machine
from hilum.db import jobs, migrate, models, studies
from hilum.db.connection import Database
from hilum.embedded import bundled, demo
from hilum.embedded.client import Client
from hilum.embedded.stack import Stack
from hilum.engines.loading import open_engine
from hilum.machine import usable_cores
from hilum.packages.load import Package, verify
from hilum.pipeline.admit import admit
from hilum.pipeline.examine import examine
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import ExamineOptions, Score
from hilum.queue import Queue
from hilum.settings import Limits, Settings
from hilum.storage import open_store
from worker.outcomes import scored

PATIENCE_S: Final = 3600
BATCH: Final = 8


def unique(data: bytes, number: int) -> bytes:
    """The same film as another instance: its SOP Instance UID ends with another number."""
    uid = films.real_dataset().SOPInstanceUID.encode()
    tail = f"{number:05}".encode()
    return data.replace(uid, uid[: -len(tail)] + tail)


class Costs:
    """CPU-seconds of one film, part by part, each measured alone."""

    def __init__(self, data: bytes, *, repeats: int) -> None:
        package = verify(bundled.folder("demo"))
        options = ExamineOptions.of(package.manifest, Limits())
        known = examine(data, options)
        self.decode = _cpu(lambda: examine(data, options), repeats)
        scorer = Scorer(package, open_engine(package, Settings(engine="onnxruntime")))
        batch = [admit(known, package.manifest.policy)] * BATCH
        scores = scorer.score(batch)
        self.engine = _cpu(lambda: scorer.score(batch), repeats) / BATCH
        self.commit = self._measure_commit(package, scorer, scores, repeats)

    @staticmethod
    def _measure_commit(
        package: Package, scorer: Scorer, scores: Sequence[Score], repeats: int
    ) -> float:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/hilum.db"
            migrate.upgrade(url)
            with Database(url) as database:
                write = _writer(database, package, scorer, scores[0], studies_of=BATCH)
                return _cpu(write, repeats) / BATCH

    def film(self, get: float, *, cached: bool = False) -> float:
        """Of a whole film, with this much for the GET at the server."""
        return (0.0 if cached else self.decode) + self.engine + self.commit + get


def _writer(
    database: Database, package: Package, scorer: Scorer, score: Score, *, studies_of: int
) -> Callable[[], None]:
    """What records one batch of ``studies_of`` new results, of a job that is made beside."""
    count = 0
    with database.write() as connection:
        model_id = models.register(connection, **package.manifest.registration())

    def write() -> None:
        nonlocal count
        uris = [f"s3://b/{count + n}" for n in range(studies_of)]
        made = studies.submit(database, tenant="bench", queue=Queue.BULK, uris=uris)
        with database.write() as connection:
            claim = jobs.claim(connection, made.job_id, lease_s=60, max_unreported=8)
        assert claim is not None
        outcomes = []
        for image in claim.pending:
            count += 1
            digest = count.to_bytes(32)
            new = replace(score, content_sha256=digest, sop_instance_uid=f"2.25.{count}")
            outcomes.append(
                scored(image.image_id, new, scorer=scorer, model_id=model_id, cam_policy="all")
            )
        before = time.process_time(), time.perf_counter()
        with database.write() as connection:
            jobs.record(connection, claim, outcomes, lease_s=60)
        write.cpu = time.process_time() - before[0]  # type: ignore[attr-defined]
        write.wall = time.perf_counter() - before[1]  # type: ignore[attr-defined]

    return write


def _cpu(run: Callable[[], object], repeats: int) -> float:
    """The median of the CPU-seconds of ``run``; of its attribute ``cpu``, if it has one."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        whole = time.process_time() - start
        taken.append(float(getattr(run, "cpu", whole)))
    return statistics.median(taken)


class System:
    """The embedded system with films in its store."""

    def __init__(self, stack: Stack, var: Path) -> None:
        self.stack = stack
        self._var = var
        self._client = Client(stack.url, demo.api_key(stack, var / "key"))
        self._store = open_store(stack.s3, Limits())
        self._sent = 0

    def put(self, data: bytes, count: int) -> list[str]:
        uris = [f"s3://films/{self._sent + n:06}.dcm" for n in range(count)]
        for uri in uris:
            self._store.write(uri, unique(data, self._sent))
            self._sent += 1
        return uris

    def get_cost(self, uri: str, repeats: int) -> float:
        """CPU-seconds of the server for one GET."""
        server = next(p for p in self.processes() if "weed" in p.name())
        before = sum(server.cpu_times()[:2])
        for _ in range(repeats):
            self._store.read(uri)
        return float(sum(server.cpu_times()[:2]) - before) / repeats

    def submit(self, uris: Sequence[str], priority: str) -> str:
        body = {"priority": priority, "images": [{"uri": uri} for uri in uris]}
        self._sent += 1
        key = f"bench-{self._sent}"
        return str(self._client.post("/v1/studies", body, idempotency_key=key)["id"])

    def completed(self, study: str | None = None, *, every_s: float = 0.005) -> None:
        """Wait for the end of this study, or of all."""
        # Ask the database, because an answer of the API costs time of its own.
        which = "" if study is None else f" AND study_id = '{study}'"
        query = f"SELECT 1 FROM jobs WHERE status IN ('queued', 'running'){which} LIMIT 1"
        deadline = time.monotonic() + PATIENCE_S
        with sqlite3.connect(f"file:{self._var / 'hilum.db'}?mode=ro", uri=True) as database:
            while database.execute(query).fetchone():
                assert time.monotonic() < deadline, "the jobs do not end"
                time.sleep(every_s)

    def processes(self) -> list[psutil.Process]:
        return list(psutil.Process().children(recursive=True))

    def cpu(self) -> dict[str, float]:
        """CPU-seconds so far, by what a process does."""
        found: dict[str, float] = defaultdict(float)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                roles = ("sandbox.child", "spawn_main", "worker", "gateway", "weed", "valkey")
                role = next((role for role in roles if role in line), "other")
                found[role] += sum(process.cpu_times()[:2])
        return found


@contextmanager
def system(**environment: str) -> Iterator[System]:
    os.environ.update(environment)
    try:
        with tempfile.TemporaryDirectory() as var, Stack(Path(var)) as stack:
            yield System(stack, Path(var))
    finally:
        for name in environment:
            del os.environ[name]


def pipeline_vs_limit(*, count: int, sizes: Sequence[int], repeats: int) -> Iterator[Line]:
    """Yield a line for each transfer syntax and size of study."""
    cores = usable_cores()
    for syntax in ("native", "j2k"):
        data = films.film(syntax)
        costs = Costs(data, repeats=repeats)
        for cached in (False, True) if syntax == "j2k" else (False,):
            cache = {"HILUM_PREPARED__MODE": "on", "HILUM_PREPARED__SECRET": "s" * 40}
            with system(**(cache if cached else {})) as running:
                uris = running.put(data, count)
                get = running.get_cost(uris[0], repeats)
                warm = uris if cached else uris[:2]
                running.submit(warm, "bulk")
                running.completed()
                for size in sizes:
                    before = running.cpu()
                    start = time.perf_counter()
                    for at in range(0, count, size):
                        running.submit(uris[at : at + size], "bulk")
                    running.completed()
                    rate = count / (time.perf_counter() - start)
                    spent = {
                        role: 1e3 * (cpu - before.get(role, 0.0)) / count
                        for role, cpu in running.cpu().items()
                    }
                    name = "cached" if cached else syntax
                    print(
                        f"# {name}, studies of {size}: CPU ms a film",
                        {role: round(ms, 1) for role, ms in spent.items()},
                        f"alone: decode {costs.decode * 1e3:.1f} engine {costs.engine * 1e3:.1f} "
                        f"commit {costs.commit * 1e3:.1f} GET {get * 1e3:.1f}",
                        file=sys.stderr,
                    )
                    limit = cores / costs.film(get, cached=cached)
                    yield _line("pipeline_vs_limit", f"{name}, studies of {size}", rate, limit)


def stat_under_bulk(*, looks: int, every_s: float = 2.0) -> Iterator[Line]:
    """Yield a line for each transfer syntax."""
    for syntax in ("native", "j2k"):
        data = films.film(syntax)
        with system() as running:
            uris = running.put(data, 2 * looks + 102)
            bulk, uris = uris[:100], uris[100:]
            idle = _p95(running, uris[:looks], every_s)
            running.completed()
            # The same films again and again: they are fetched, decoded and scored each time.
            for _ in range(20):
                running.submit(bulk, "bulk")
            time.sleep(every_s)
            loaded = _p95(running, uris[looks : 2 * looks], every_s)
        yield Line(
            claim="stat_under_bulk",
            case=f"{syntax} ({machine()})",
            value=loaded,
            peer="idle",
            peer_value=idle,
            ratio=idle / loaded,
            target=0.5,
            unit="s",
        )


def _p95(running: System, uris: Sequence[str], every_s: float) -> float:
    taken = []
    for uri in uris:
        study = running.submit([uri], "stat")
        start = time.perf_counter()
        running.completed(study)
        taken.append(time.perf_counter() - start)
        time.sleep(max(0.0, every_s - taken[-1]))
    return sorted(taken)[int(0.95 * (len(taken) - 1))]


def results_rows_per_s(url: str, *, rows: int, size: int = 64) -> Iterator[Line]:
    """Yield the line; ``url`` is of an empty PostgreSQL database."""
    migrate.upgrade(url)
    package = verify(bundled.folder("demo"))
    scorer = Scorer(package, open_engine(package, Settings(engine="onnxruntime")))
    known = examine(films.film("native"), ExamineOptions.of(package.manifest, Limits()))
    (score,) = scorer.score([admit(known, package.manifest.policy)])
    with Database(url) as database:
        write = _writer(database, package, scorer, score, studies_of=size)
        write()
        spent = 0.0
        for _ in range(max(1, rows // size)):
            write()
            spent += write.wall  # type: ignore[attr-defined]
    rate = max(1, rows // size) * size / spent
    yield _line("results_rows_per_s", f"batches of {size}", rate, 10_000.0, unit="rows/s", goal=1.0)


def _line(
    claim: str, case: str, value: float, peer: float, *, unit: str = "films/s", goal: float = 0.9
) -> Line:
    return Line(
        claim=claim,
        case=f"{case} ({machine()})",
        value=value,
        peer="limit",
        peer_value=peer,
        ratio=value / peer,
        target=goal,
        unit=unit,
    )
