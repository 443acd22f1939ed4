"""Publishing what is due, lost, or has lost its worker, on a real broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from support import tiny_package

from hilum.db import jobs, migrate, models, studies, sweeper
from hilum.db.connection import Database
from hilum.db.studies import Submission
from hilum.embedded.valkey import Valkey
from hilum.errors import BrokerUnavailableError
from hilum.queue import Queue, route
from hilum.settings import Settings, WorkerSettings
from worker import sweeping
from worker.app import CeleryBroker, create_app
from worker.sweeping import Sweeper, sweep

# Every unpublished job is due and every published one may be lost, at once.
EAGER = WorkerSettings(sweep_interval_s=0.001, republish_after_s=0.001)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """SQLite; the statements themselves are tested on both."""
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    migrate.upgrade(url)
    with Database(url) as database:
        yield database


@pytest.fixture
def broker(valkey: Valkey) -> Iterator[CeleryBroker]:
    """Empty before and after."""
    valkey.start()
    valkey.flush()
    app = create_app(Settings(broker_url=SecretStr(valkey.url)))
    yield CeleryBroker(app)
    app.close()
    valkey.start()
    valkey.flush()


@pytest.fixture
def model(database: Database, tmp_path: Path) -> tuple[int, str]:
    """A registered model's id and digest."""
    manifest = tiny_package.build(tmp_path / "package")
    with database.write() as connection:
        return models.register(connection, **manifest.registration()), manifest.digest


@pytest.fixture
def submit(database: Database) -> Callable[..., Submission]:
    """A study of one image."""

    def submit(queue: Queue = Queue.ROUTINE, model_id: int | None = None) -> Submission:
        return studies.submit(
            database, tenant="north", queue=queue, uris=["s3://b/1"], model_id=model_id
        )

    return submit


def _settled() -> None:
    """Let the settings' millisecond pass."""
    threading.Event().wait(0.01)


def test_due_jobs_go_to_the_queue_of_their_priority_and_model(
    database: Database,
    broker: CeleryBroker,
    submit: Callable[..., Submission],
    model: tuple[int, str],
) -> None:
    model_id, digest = model
    submit(Queue.STAT)
    submit(Queue.BULK)
    submit(Queue.BULK, model_id)
    submit(Queue.BULK, model_id)
    _settled()
    assert sweep(database, broker, WorkerSettings(sweep_interval_s=0.001)) == 4
    routes = ["stat", "routine", "bulk", route(Queue.BULK, digest), route(Queue.STAT, digest)]
    assert [broker.length(name) for name in routes] == [1, 0, 1, 2, 0]
    assert sweep(database, broker, WorkerSettings(sweep_interval_s=0.001)) == 0


def test_what_the_broker_lost_is_found_for_each_queue(
    database: Database,
    broker: CeleryBroker,
    valkey: Valkey,
    submit: Callable[..., Submission],
    model: tuple[int, str],
) -> None:
    """A long queue does not hide what another has lost."""
    model_id, digest = model
    own = route(Queue.BULK, digest)
    bound = submit(Queue.BULK, model_id)
    plain = [submit(Queue.BULK) for _ in range(3)]
    _settled()
    assert sweep(database, broker, EAGER) == 4
    assert sweep(database, broker, EAGER) == 0
    valkey.flush()
    for made in plain:
        broker.publish(made.job_id, "bulk")
    _settled()
    assert sweep(database, broker, EAGER) == 1
    assert (broker.length("bulk"), broker.length(own)) == (3, 1)
    # A claimed job is in a worker's hands, not lost.
    with database.write() as connection:
        assert jobs.claim(connection, bound.job_id, lease_s=60, max_unreported=8, model_id=model_id)
    valkey.flush()
    _settled()
    assert sweep(database, broker, EAGER) == 3
    assert broker.length(own) == 0


def test_no_more_is_published_than_the_broker_lacks(
    database: Database, broker: CeleryBroker, submit: Callable[..., Submission]
) -> None:
    """A backlog is normal, and not published again and again."""
    for _ in range(3):
        submit()
    _settled()
    assert sweep(database, broker, EAGER) == 3
    for _ in range(3):
        _settled()
        assert sweep(database, broker, EAGER) == 0
    assert broker.length("routine") == 3


def test_jobs_of_dead_workers_are_published_again(
    database: Database,
    broker: CeleryBroker,
    submit: Callable[..., Submission],
    model: tuple[int, str],
) -> None:
    model_id, digest = model
    for made in (submit(), submit(model_id=model_id)):
        with database.write() as connection:
            assert jobs.claim(
                connection, made.job_id, lease_s=-1, max_unreported=8, model_id=model_id
            )
    assert sweep(database, broker, EAGER) == 2
    assert (broker.length("routine"), broker.length(route(Queue.ROUTINE, digest))) == (1, 1)


def test_a_broker_that_is_away_keeps_no_job(
    database: Database, broker: CeleryBroker, valkey: Valkey, submit: Callable[..., Submission]
) -> None:
    """What could not be published is as it was, for the next sweep."""
    made = [submit().job_id for _ in range(2)]
    _settled()
    valkey.stop()
    with pytest.raises(BrokerUnavailableError):
        sweep(database, broker, EAGER)
    valkey.start()
    with database.write() as connection:
        taken = sweeper.take_due(connection, grace_s=-1)
        sweeper.unpublish(connection, [due.job_id for due in taken])
    assert sorted(due.job_id for due in taken) == sorted(made)
    assert sweep(database, broker, EAGER) == 2


class _Reports:
    """A broker that tells when it is used, and fails at first."""

    def __init__(self, inner: CeleryBroker, *failures: Exception) -> None:
        self._inner, self._failures = inner, list(failures)
        self.published = threading.Event()

    def publish(self, job_id: str, route: str) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self._inner.publish(job_id, route)
        self.published.set()

    def length(self, route: str) -> int:
        return self._inner.length(route)


def test_one_bad_sweep_is_not_the_last(
    database: Database, broker: CeleryBroker, submit: Callable[..., Submission]
) -> None:
    """Neither an error of ours nor a mistake ends the thread."""
    reports = _Reports(broker, BrokerUnavailableError("The broker is away."), KeyError("mistake"))
    submit()
    _settled()
    thread = Sweeper(database, reports, EAGER)
    thread.start()
    assert reports.published.wait(30)
    thread.stop()
    assert broker.length("routine") >= 1


def test_messages_far_beyond_the_jobs_are_removed(
    database: Database,
    broker: CeleryBroker,
    submit: Callable[..., Submission],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Busy workers claim from SQL and leave the messages, which only wake the idle."""
    monkeypatch.setattr(sweeping, "_SPARE", 2)
    waiting = submit(Queue.BULK)
    _settled()
    sweep(database, broker, WorkerSettings(sweep_interval_s=0.001))
    for _ in range(9):
        broker.publish(waiting.job_id, "bulk")
        broker.publish(waiting.job_id, "stat")
    sweep(database, broker, WorkerSettings(sweep_interval_s=0.001))
    assert [broker.length(name) for name in ("stat", "routine", "bulk")] == [2, 0, 3]
