"""What Prometheus sees of the queues, from SQL, and of requests; and nothing of a patient."""

from __future__ import annotations

import re
import socket
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event
from support import tiny_package

from api_gateway import metrics
from hilum.db import backlog, jobs, migrate, models, studies, tables
from hilum.db.connection import Database
from hilum.errors import AttemptsExhaustedError, ConfigurationError
from hilum.packages.load import verify
from hilum.queue import Queue


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        f"{sample.name} {' '.join(sample.labels.values())}".strip(): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_queues_of_each_class_and_model(database_url: str, tmp_path: Path) -> None:
    migrate.upgrade(database_url)
    tiny_package.build(tmp_path / "package")
    package = verify(tmp_path / "package")
    port = free_port()
    with Database(database_url) as database:
        with database.write() as connection:
            model = models.register(connection, **package.manifest.registration())
        made = [
            studies.submit(database, tenant="north", queue=queue, uris=["s3://pacs/DOE^JOHN.dcm"])
            for queue in (Queue.STAT, Queue.ROUTINE, Queue.ROUTINE, Queue.BULK)
        ]
        with database.write() as connection:
            claim = jobs.claim(connection, made[1].job_id, lease_s=60, max_unreported=5)
            assert claim
            studies.add_job(
                connection,
                tenant="north",
                study_id=made[1].study_id,
                image_ids=[claim.pending[0].image_id],
                queue=Queue.BULK,
                model_id=model,
            )
            failed = jobs.claim(connection, made[3].job_id, lease_s=60, max_unreported=5)
            assert failed
            jobs.quarantine(connection, failed, AttemptsExhaustedError("too often"))
        with metrics.serve(f"127.0.0.1:{port}", database_url):
            metrics.count_request(method="GET", route="/healthz", status=200, seconds=0.01)
            found = scrape(port)
    short = package.digest.removeprefix("sha256:")[:16]
    assert found["hilum_database_up"] == 1
    assert found["hilum_queue_depth stat any"] == 1
    assert found["hilum_queue_depth routine any"] == 1
    assert found["hilum_queue_in_flight routine any"] == 1
    assert found["hilum_queue_in_flight stat any"] == 0
    assert found[f"hilum_queue_depth bulk {short}"] == 1
    assert found["hilum_queue_depth bulk any"] == 0
    assert found["hilum_queue_age_seconds bulk any"] == 0
    assert 0 < found["hilum_queue_age_seconds stat any"] < 600
    assert 0 < found[f"hilum_queue_age_seconds bulk {short}"] < 600
    assert found["hilum_jobs_quarantined"] == 1
    assert found["hilum_gateway_requests_total GET /healthz 200"] >= 1
    assert not re.search(r"north|DOE|pacs", " ".join(found))


def test_a_database_that_does_not_answer_shows_no_queue_at_all(tmp_path: Path) -> None:
    """A zero would tell an autoscaler to remove the workers."""
    port = free_port()
    with metrics.serve(f"127.0.0.1:{port}", f"sqlite:///{tmp_path / 'empty.db'}"):
        found = scrape(port)
    assert found["hilum_database_up"] == 0
    assert not [name for name in found if name.startswith("hilum_queue")]


def test_an_address_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigurationError, match="HILUM_GATEWAY__METRICS_ADDRESS"),
            metrics.serve(address, f"sqlite:///{tmp_path / 'x.db'}"),
        ):
            pass


def test_ended_jobs_are_not_read(database_url: str) -> None:
    """The cost follows from the jobs that have not ended: the plan uses the index on status."""
    migrate.upgrade(database_url)
    ended = [
        {"id": f"jb_{n}", "study_id": "st_1", "tenant": "north", "queue": "bulk", "attempts": 1,
         "status": "completed", "unreported": 0, "deferrals": 0,
         "available_at": datetime.now(UTC), "created_at": datetime.now(UTC)}
        for n in range(20_000)
    ]  # fmt: skip
    with Database(database_url) as database:
        with database.write() as connection:
            study = {"id": "st_1", "tenant": "north", "created_at": datetime.now(UTC)}
            connection.execute(tables.studies.insert(), [study])
            connection.execute(tables.jobs.insert(), ended)
            if database.dialect == "postgresql":
                connection.exec_driver_sql("ANALYZE")
        with database.read() as connection:
            seen: list[str] = []

            @event.listens_for(connection, "before_execute")
            def _note(_c: Any, clause: Any, *_: Any) -> None:
                seen.append(
                    str(
                        clause.compile(
                            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
                        )
                    )
                )

            assert backlog.queues(connection) == []
            (statement,) = seen
            explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
            rows = connection.exec_driver_sql(f"{explain} {statement}".replace("%", "%%")).all()
    told = " ".join(str(part) for row in rows for part in row)
    assert "ix_jobs_status_available_at" in told
    assert "Seq Scan on jobs" not in told
