"""A running system of real processes, on SQLite and on PostgreSQL, that a test may hurt."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy
from sqlalchemy import func, select
from support import tiny_package

from api_gateway.publisher import Publisher
from hilum.db import migrate, studies
from hilum.db.connection import Database
from hilum.db.states import JobStatus
from hilum.db.studies import ImageState, StudyState, Submission
from hilum.db.tables import jobs, outbox, results
from hilum.embedded.process import Child
from hilum.embedded.valkey import Valkey
from hilum.queue import Queue
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store

TENANT = "north"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the scenarios of `make faults`, `make test` runs a slice."""
    if not os.environ.get("FAULTS_STUDIES"):
        items[:] = [
            item
            for item in items
            if item.get_closest_marker("faults") is None or item.get_closest_marker("in_slice")
        ]


Seen = TypeVar("Seen")


@dataclass
class System:
    """Broker, store, database; workers as the test starts them."""

    folder: Path
    url: str
    database: Database
    broker: Valkey
    s3: S3Settings
    bucket: str
    store: ObjectStore
    package: Path
    publisher: Publisher
    workers: list[Child] = field(default_factory=list)

    def worker(
        self,
        *,
        python: Sequence[str] = (sys.executable,),
        module: Sequence[str] = ("-m", "hilum"),
        **environment: str,
    ) -> Child:
        """Start ``hilum worker`` and wait until it takes jobs."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        env = self.environment(**environment)
        child = Child("hilum worker", [*python, *module, "worker"], log=log, env=env)
        self.workers.append(child)
        child.wait_until(lambda: "worker.process_ready" in log.read_text(), timeout_s=120)
        return child

    def environment(self, **changes: str) -> dict[str, str]:
        """Of a process of this system."""
        secret = self.s3.secret_access_key
        assert secret is not None
        return {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "HILUM_DATABASE_URL": self.url,
            "HILUM_BROKER_URL": self.broker.url,
            "HILUM_MODEL_URI": str(self.package),
            "HILUM_CACHE_DIR": str(self.folder / "cache"),
            "HILUM_S3__ENDPOINT_URL": str(self.s3.endpoint_url),
            "HILUM_S3__ACCESS_KEY_ID": str(self.s3.access_key_id),
            "HILUM_S3__SECRET_ACCESS_KEY": secret.get_secret_value(),
            "HILUM_WORKER__LEASE_S": "60",  # a loaded machine loses none; see `expire_leases`
            "HILUM_WORKER__DECODE_THREADS": "1",  # each starts a process
            "HILUM_WORKER__SWEEP_INTERVAL_S": "0.5",
            "HILUM_WORKER__REPUBLISH_AFTER_S": "1",
            "HILUM_WORKER__RETRY_BASE_S": "0.5",
            "HILUM_WORKER__RETRY_MAX_S": "1",
            **changes,
        }

    def put(self, name: str, data: bytes) -> str:
        """Store an object; returns its URI."""
        uri = f"s3://{self.bucket}/{name}"
        self.store.write(uri, data)
        return uri

    def submit(self, uris: Sequence[str], *, publish: bool = True) -> Submission:
        """Register a study, as the gateway does."""
        made = studies.submit(self.database, tenant=TENANT, queue=Queue.ROUTINE, uris=uris)
        if publish:
            assert self.publisher.publish(made.job_id, Queue.ROUTINE)
        return made

    def state(self, made: Submission) -> StudyState:
        """How the study stands."""
        with self.database.read() as connection:
            state = studies.get(connection, tenant=TENANT, study_id=made.study_id)
        assert state is not None
        return state

    def until(
        self, made: Submission, reached: Callable[[StudyState], bool], *, within_s: float = 120
    ) -> StudyState:
        """Wait for a state."""
        return self._until(lambda: self.state(made), reached, within_s)

    def completed(self, made: Submission, *, within_s: float = 120) -> StudyState:
        """Wait for the end of the study."""
        return self.until(made, lambda s: s.status is JobStatus.COMPLETED, within_s=within_s)

    def until_true(self, reached: Callable[[], bool], *, within_s: float = 120) -> None:
        """Wait for a condition."""
        self._until(reached, bool, within_s)

    def until_said(self, event: str, *, within_s: float = 120) -> None:
        """Wait for a line of a worker's log."""
        self._until(self.logs, lambda said: event in said, within_s)

    def until_ready(self, processes: int) -> None:
        """Wait for so many processes of workers to have become ready, dead ones among them."""
        self._until(
            lambda: self.logs().count("worker.process_ready"), lambda n: n >= processes, 120
        )

    def _until(
        self, look: Callable[[], Seen], reached: Callable[[Seen], bool], within_s: float
    ) -> Seen:
        deadline = time.monotonic() + within_s
        while not reached(seen := look()):
            assert time.monotonic() < deadline, f"{seen}\n{self.logs()}"
            time.sleep(0.05)
        return seen

    def images(self, made: Submission) -> list[ImageState]:
        """All images of the study."""
        with self.database.read() as connection:
            return studies.list_images(connection, study=self.state(made), limit=1000)

    def expire_leases(self) -> None:
        """As if the time had passed that those who hold jobs may be silent for. Not said of the
        living: they find that they have lost their job."""
        with self.database.write() as connection:
            past = datetime.now(UTC) - timedelta(seconds=1)
            held = jobs.c.status == JobStatus.RUNNING
            connection.execute(jobs.update().where(held).values(lease_until=past))

    def count(self, table: sqlalchemy.Table) -> int:
        """Rows of a table."""
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def exactly_once(self, made: Submission, images: int) -> None:
        """Every image has a result of its own, and one report is owed."""
        found = self.images(made)
        assert len(found) == images
        assert len({image.result_id for image in found} - {None}) == images
        assert self.count(results) == images
        assert self.count(outbox) == 1

    def logs(self) -> str:
        """All that the workers said."""
        return "\n".join(child.log.read_text() for child in self.workers)


@pytest.fixture
def system(empty_system: System) -> System:
    """Of each database, migrated; its workers are stopped at the end."""
    migrate.upgrade(empty_system.url)
    return empty_system


@pytest.fixture
def empty_system(
    database_url: str, valkey: Valkey, s3: S3Settings, bucket: str, tmp_path: Path
) -> Iterator[System]:
    """As ``system``, before any migration."""
    valkey.start()
    package = tmp_path / "package"
    tiny_package.build(package)
    with Database(database_url) as database:
        publisher = Publisher(valkey.url, database)
        made = System(
            folder=tmp_path,
            url=database_url,
            database=database,
            broker=valkey,
            s3=s3,
            bucket=bucket,
            store=open_store(s3, Limits()),
            package=package,
            publisher=publisher,
        )
        try:
            yield made
        finally:
            for child in made.workers:
                child.stop()
            publisher.close()
            valkey.flush()
