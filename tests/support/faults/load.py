"""Studies for a system that a test hurts, and what is to hold of them at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from sqlalchemy import func, select
from support.faults import checks
from support.faults.table import Row
from support.tiny_film import film

from hilum.db import studies
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import items, jobs
from hilum.embedded.process import Child
from hilum.queue import Queue
from hilum.storage import ObjectStore

if TYPE_CHECKING:
    from e2e.conftest import System
else:
    System = Any

LEASE_S = 5.0
_QUEUES = (Queue.ROUTINE, Queue.STAT, Queue.BULK, Queue.BULK, *[Queue.ROUTINE] * 6)


def upload(store: ObjectStore, bucket: str, count: int) -> list[list[str]]:
    """Store films; returns the addresses of each of ``count`` studies: one, or of each tenth three.

    The addresses contain a name and a UID, as those of an archive may.
    """
    studies_of_films = []
    number = 0
    for study in range(count):
        uris = []
        for _ in range(3 if study % 10 == 0 else 1):
            uid = f"{checks.UID_ROOT}.{number}"
            named = {"PatientName": checks.NAME, "PatientID": checks.PATIENT_ID}
            data = film(number, SOPInstanceUID=uid, **named)
            uris.append(f"s3://{bucket}/{checks.NAME}/{uid}.dcm")
            store.write(uris[-1], data)
            number += 1
        studies_of_films.append(uris)
    return studies_of_films


@dataclass
class Load:
    """The studies of one scenario."""

    system: System
    archive: Sequence[Sequence[str]]  # of each study that may be submitted
    submitted: dict[str, int] = field(default_factory=dict)  # job: images
    faults: list[checks.Fault] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _in_hand: frozenset[str] = frozenset()

    def worker(self, **more: Any) -> Child:
        """Start a worker with short leases."""
        defaults = {
            "HILUM_WORKER__LEASE_S": str(LEASE_S),
            "HILUM_WORKER__BATCH_SIZE": "4",
            "HILUM_WORKER__STAT_THREADS": "0",
            "HILUM_WORKER__ENGINE_THREADS": "1",
        }
        return self.system.worker(**{**defaults, **more})

    def submit(self, share: float) -> None:
        """Submit this share of all studies, or what is left of them."""
        first = len(self.submitted)
        count = max(1, round(share * len(self.archive)))
        for number in range(first, min(first + count, len(self.archive))):
            uris, queue = self.archive[number], _QUEUES[number % len(_QUEUES)]
            tenant = ("north", "south")[number % 2]
            database = self.system.database
            made = studies.submit(database, tenant=tenant, queue=queue, uris=uris)
            self.submitted[made.job_id] = len(uris)
            self.system.publisher.publish(made.job_id, queue)

    def ended(self) -> int:
        """The number of images with an outcome."""
        with self.system.database.read() as connection:
            query = select(func.count()).where(items.c.status != ItemStatus.PENDING)
            return int(connection.execute(query.select_from(items)).scalar_one())

    def until_more_ended(self, count: int = 3) -> None:
        """Wait for so many more outcomes, or all."""
        wanted = min(self.ended() + count, sum(self.submitted.values()))
        self.system.until_true(lambda: self.ended() >= wanted)

    def fault(self) -> None:
        """A fault comes now."""
        with self.system.database.read() as connection:
            held = select(jobs.c.id).where(jobs.c.status == JobStatus.RUNNING)
            self._in_hand = frozenset(connection.execute(held).scalars())

    def over(self) -> None:
        """The fault is over, or has killed what it was to kill."""
        self.faults.append(checks.Fault(over_at=datetime.now(UTC), in_hand=self._in_hand))

    def finish(
        self,
        *,
        expected: Mapping[str, int] | None = None,
        orderly: bool = False,
        log_files: Sequence[Path] = (),
    ) -> Callable[[str, int], Row]:
        """Submit the rest, wait until every study has ended, stop the workers and check."""
        self.submit(1)
        system = self.system

        def left() -> bool:
            with system.database.read() as connection:
                active = (JobStatus.QUEUED, JobStatus.RUNNING)
                query = select(func.count()).where(jobs.c.status.in_(active))
                return connection.execute(query).scalar_one() == 0

        found = []
        try:
            system.until_true(left, within_s=180 + len(self.archive) / 4)
        except AssertionError:
            found.append("not all studies ended in time")
        seconds = time.monotonic() - self.began
        found += self._stop()
        logs = system.logs() + "".join(path.read_text() for path in log_files)
        with system.database.read() as connection:
            rules = checks.violations(
                connection, self.submitted, expected=expected or {}, orderly=orderly, logs=logs
            )
            following, in_hand = checks.recovery(connection, self.faults)
        broken = "; ".join([*found, *rules])
        return lambda scenario, line: Row(
            line=line,
            scenario=scenario,
            database="SQLite" if system.url.startswith("sqlite") else "PostgreSQL",
            studies=len(self.submitted),
            images=sum(self.submitted.values()),
            seconds=seconds,
            next_s=following,
            in_hand_s=in_hand,
            broken=broken,
        )

    def _stop(self) -> list[str]:
        """Stop all workers; they must end in time, and leave no process behind."""
        family = [p for child in self.system.workers for p in descendants(child)]
        for child in self.system.workers:
            if child.running and child.stop(timeout_s=60) < 0:
                return ["a worker did not end on SIGTERM"]
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return [f"{len(alive)} processes left behind"] if alive else []


def descendants(child: Child) -> list[psutil.Process]:
    """The processes below that of ``child``."""
    try:
        return psutil.Process(child.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def pool_process(child: Child) -> psutil.Process:
    """The process with the engine. Beside it there is only multiprocessing's resource tracker."""
    children = psutil.Process(child.process.pid).children()
    return max(children, key=lambda process: process.memory_info().rss)
