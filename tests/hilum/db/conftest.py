"""A migrated database of each kind, and what the query tests fill it with."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg
import pytest
from sqlalchemy import make_url, text

from hilum.db import migrate, models, studies
from hilum.db.claims import NotScored, Scored
from hilum.db.connection import Database
from hilum.db.results import NewResult
from hilum.db.states import ItemStatus
from hilum.db.studies import StudyState, Submission
from hilum.db.tables import FIRST_PIPELINE, metadata
from hilum.errors import NotDicomError
from hilum.finding import Finding
from hilum.packages.load import Package
from hilum.queue import Queue

T = TypeVar("T")
UID = "1.2.826.0.1.3680043.8.498.4711"


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """One database of its own for all tests here: making one takes half a second."""
    name = f"db_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        migrate.upgrade(url)
        yield url
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "hilum.db"
    migrate.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Migrated, empty, of each kind."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "hilum.db")
        with Database(f"sqlite:///{file}") as database:
            yield database
        return
    with Database(request.getfixturevalue("migrated_postgres")) as database:
        with database.write() as connection:
            names = ", ".join(table.name for table in metadata.sorted_tables)
            # The audit's trigger refuses to empty it; as a replica the server runs no triggers.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
        yield database


@pytest.fixture
def model_id(database: Database, tiny: Package) -> int:
    """The tiny package, registered."""
    with database.write() as connection:
        return models.register(connection, **tiny.manifest.registration())


@pytest.fixture
def submit(database: Database) -> Callable[..., Submission]:
    """Register a study with so many images."""

    def submit(images: int = 1, queue: Queue = Queue.ROUTINE) -> Submission:
        uris = [f"s3://bucket/{n}.dcm" for n in range(images)]
        return studies.submit(database, tenant="north", queue=queue, uris=uris)

    return submit


@pytest.fixture
def state_of(database: Database) -> Callable[[Submission], StudyState]:
    """How the study stands now."""

    def state_of(submitted: Submission) -> StudyState:
        with database.read() as connection:
            state = studies.get(connection, tenant="north", study_id=submitted.study_id)
        assert state is not None
        return state

    return state_of


@pytest.fixture
def new_result(model_id: int) -> Callable[..., NewResult]:
    """A result whose numbers follow from ``seed``."""

    def new_result(seed: int = 0, **fields: Any) -> NewResult:
        rng = np.random.default_rng(seed)
        defaults: dict[str, Any] = {
            "sop_instance_uid": f"{UID}.{seed}",
            "series_instance_uid": f"{UID}.1.{seed}",
            "study_instance_uid": f"{UID}.2",
            "content_sha256": bytes([seed]) * 32,
            "model_id": model_id,
            "pipeline": FIRST_PIPELINE,
            "rows": 1955,
            "columns": 1841,
            "raw": rng.random(6, dtype=np.float32),
            "probability": rng.random(6, dtype=np.float32),
            "findings": (
                Finding(label="Nodule/Mass", probability=0.75, threshold=0.5),
                Finding(label="Effusion", probability=0.875, threshold=0.25),
            ),
            "cam": rng.random((2, 4, 4), dtype=np.float32),
            "cam_labels": (1, 3),
            "engine": "onnxruntime-cpu",
            "flags": ("view_unknown",),
        }
        return NewResult(**{**defaults, **fields})

    return new_result


@pytest.fixture
def scored(new_result: Callable[..., NewResult]) -> Callable[..., Scored]:
    """A good end of an image."""
    return lambda image_id, seed=0: Scored(image_id=image_id, result=new_result(seed))


@pytest.fixture
def refused() -> Callable[[str], NotScored]:
    """A bad end of an image."""

    def refused(image_id: str) -> NotScored:
        error = NotDicomError("The object has no DICM prefix.")
        return NotScored(image_id=image_id, status=ItemStatus.REFUSED, error=error)

    return refused


@pytest.fixture
def race() -> Callable[..., list[Any]]:
    """Run a step on several threads at the same moment; its results, exceptions among them."""

    def race(step: Callable[[int], T], threads: int = 6) -> list[T | BaseException]:
        ready = threading.Barrier(threads)

        def run(n: int) -> T | BaseException:
            ready.wait()
            try:
                return step(n)
            except Exception as error:
                return error

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run, range(threads)))

    return race
