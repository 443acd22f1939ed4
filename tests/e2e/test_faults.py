"""Delivery guarantees: whatever fails, each study ends, and each image has one outcome.

`make faults STUDIES=2000` runs every scenario and writes the table of docs/operate/running.md.
Without the variable `FAULTS_STUDIES` only those marked `in_slice` run, with few studies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
import redis
from sqlalchemy import text, update
from support.faults import fatal_worker, table
from support.faults.load import LEASE_S, Load, descendants, pool_process, upload
from support.faults.s3_proxy import Answer, S3Proxy

from hilum.db.states import JobStatus
from hilum.db.tables import jobs
from hilum.embedded.process import Child
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store

if TYPE_CHECKING:
    from support.postgres import Postgres

    from .conftest import System
else:
    System = Postgres = Any

STUDIES = int(os.environ.get("FAULTS_STUDIES") or 20)
TIMES = 2 if "FAULTS_STUDIES" in os.environ else 1  # that a process is killed or stopped

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
in_slice = pytest.mark.in_slice
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def archive(s3: S3Settings) -> list[list[str]]:
    """The films of all scenarios."""
    return upload(open_store(s3, Limits()), "faults", STUDIES)


@pytest.fixture
def load(system: System, archive: list[list[str]]) -> Load:
    """Studies on a fresh database."""
    return Load(system, archive)


@pytest.fixture
def proxy(s3: S3Settings) -> Iterator[S3Proxy]:
    """Between the workers and S3."""
    made = S3Proxy(str(s3.endpoint_url))
    yield made
    made.close()


def conclude(load: Load, scenario: str, **rules: Any) -> None:
    """Check all rules, and note the scenario for the table."""
    line = sys._getframe(1).f_code.co_firstlineno
    row = load.finish(**rules)(scenario, line)
    if folder := os.environ.get("FAULTS_ROWS"):
        table.keep(row, Path(folder))
    assert not row.broken, f"{row.broken}\n{load.system.logs()[-20_000:]}"


# --- SIGKILL ---


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=in_slice if point == "before commit" else ())
        for point in fatal_worker.POINTS
    ],
)
@on_postgresql
def test_killed_at(load: Load, point: str, tmp_path: Path) -> None:
    deaths, marks = TIMES, tmp_path / "marks"
    marks.mkdir()
    load.submit(0.4)
    load.worker(
        module=("-m", "support.faults.fatal_worker"),
        FATAL_POINT=point,
        FATAL_MARKS=str(marks),
        FATAL_DEATHS=str(deaths),
        FATAL_WITHIN=str(1 if point == "before ack" else max(3, STUDIES // 20)),
    )
    for death in range(deaths):
        load.system.until_true((marks / str(death)).exists)
        load.fault()
        load.over()
        load.submit(0.2)
    conclude(load, f"SIGKILL of the pool process, twice: {point}")


def _kill_all(worker: Child) -> None:
    family = descendants(worker)
    worker.kill()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@on_postgresql
def test_a_whole_worker_killed(load: Load) -> None:
    load.submit(0.4)
    for _ in range(TIMES):
        worker = load.worker()
        load.until_more_ended()
        load.fault()
        _kill_all(worker)
        load.over()
        load.submit(0.2)
    load.worker()
    conclude(load, "SIGKILL of a whole worker (node lost), twice, at a random time")


@on_postgresql
def test_the_main_process_killed(load: Load) -> None:
    load.submit(0.4)
    worker = load.worker()
    load.until_more_ended()
    family = descendants(worker)
    load.fault()
    worker.process.kill()
    load.over()
    load.worker()
    load.submit(0.6)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "the pool process and its children end without their parent"
    conclude(load, "SIGKILL of the main process of a worker only")


@on_postgresql
def test_out_of_memory(load: Load) -> None:
    load.submit(0.4)
    worker = load.worker()
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        pool_process(worker).kill()
        load.over()
        load.submit(0.2)
        load.system.until_ready(2)
    conclude(load, "The kernel kills the pool process for its memory, twice")


@on_postgresql
def test_decode_processes_killed(load: Load) -> None:
    load.submit(0.4)
    worker = load.worker()
    for _ in range(4):
        load.until_more_ended(2)
        load.fault()
        for process in pool_process(worker).children():
            with suppress(psutil.NoSuchProcess):
                if "hilum.sandbox.child" in process.cmdline():
                    process.kill()
        load.over()
        load.submit(0.1)
    conclude(load, "The kernel kills all decode processes, four times", orderly=True)


# --- orderly ends ---


@in_slice
@on_sqlite
def test_warm_shutdown(load: Load) -> None:
    load.submit(0.4)
    for _ in range(TIMES):
        worker = load.worker()
        load.until_more_ended()
        load.fault()
        assert worker.stop(timeout_s=60) == 0
        load.over()
        load.submit(0.2)
    load.worker()
    conclude(load, "SIGTERM (warm shutdown, deploy, spot eviction), twice", orderly=True)


@on_postgresql
def test_cold_shutdown(load: Load) -> None:
    load.submit(0.4)
    for _ in range(TIMES):
        worker = load.worker()
        load.until_more_ended()
        load.fault()
        worker.process.send_signal(signal.SIGQUIT)
        worker.process.wait(60)
        load.over()
        load.submit(0.2)
    load.worker()
    conclude(load, "SIGQUIT (cold shutdown), twice", orderly=True)


@on_postgresql
def test_shutdown_with_a_second_signal(load: Load) -> None:
    load.submit(0.4)
    worker = load.worker()
    load.until_more_ended()
    load.fault()
    worker.process.terminate()
    time.sleep(0.1)
    worker.process.send_signal(signal.SIGQUIT)
    worker.process.wait(60)
    load.over()
    load.worker()
    conclude(load, "SIGTERM, then SIGQUIT at once", orderly=True)


@on_postgresql
def test_the_time_limit_of_a_task(load: Load) -> None:
    load.submit(0.5)
    load.worker(HILUM_WORKER__TASK_TIME_LIMIT_S="12")
    load.fault()
    load.until_more_ended()
    load.over()
    load.submit(0.5)
    conclude(load, "Tasks have a time limit of 12 s", orderly=True)


@on_postgresql
def test_a_hanging_engine(load: Load, tmp_path: Path) -> None:
    mark = tmp_path / "hung"
    load.submit(0.5)
    load.worker(
        module=("-m", "support.hung_engine_worker"),
        HUNG_ENGINE_MARK=str(mark),
        HILUM_WORKER__NO_PROGRESS_S="5",
    )
    load.system.until_true(mark.exists)
    load.fault()
    load.over()
    load.submit(0.5)
    conclude(load, "The engine hangs, and holds Python's lock (limit 5 s)")


@on_postgresql
def test_a_rolling_deploy(load: Load, release_before: Path) -> None:
    def old() -> Child:
        python = ("env", "-C", str(release_before), sys.executable)
        return load.system.worker(python=python, PYTHONPATH="", HILUM_WORKER__LEASE_S="5")

    load.submit(0.25)
    first = old()
    load.until_more_ended()
    new = load.worker()
    load.submit(0.25)
    load.until_more_ended()
    load.fault()
    assert first.stop(timeout_s=60) == 0
    load.submit(0.25)
    load.until_more_ended()
    back = old()
    assert new.stop(timeout_s=60) == 0
    load.submit(0.1)
    load.until_more_ended()
    load.worker()
    back.stop(timeout_s=60)
    load.over()
    conclude(load, "Rolling deploy from the release before (d962ab0), back, and on again")


# --- a worker that seems dead ---


@on_postgresql
def test_stopped_beyond_the_lease(load: Load) -> None:
    load.submit(0.5)
    worker = load.worker()
    load.until_more_ended()
    family = [*descendants(worker), psutil.Process(worker.process.pid)]
    load.fault()
    for process in family:
        process.suspend()
    other = load.worker()
    time.sleep(LEASE_S + 2)
    load.submit(0.25)
    load.until_more_ended(1)
    for process in family:
        process.resume()
    load.over()
    assert other.running
    conclude(load, "SIGSTOP of a worker beyond its lease, beside another; then SIGCONT")


def _shift(load: Load, seconds: float) -> None:
    """As if the clocks of all who claimed, published and submitted had gone wrong by so much."""
    by = text("make_interval(secs => :s)").bindparams(s=seconds)
    names = ("lease_until", "available_at", "published_at", "created_at")
    with load.system.database.write() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
            .values({name: jobs.c[name] + by for name in names})
        )


@pytest.mark.parametrize("seconds", [-3600, 10])
@on_postgresql
def test_clock_steps(load: Load, seconds: int) -> None:
    load.submit(0.5)
    load.worker()
    load.worker()
    for _ in range(3):
        load.until_more_ended()
        load.fault()
        _shift(load, seconds)
        load.over()
        load.submit(0.1)
    step = "forward by an hour" if seconds < 0 else "back by 10 s"
    conclude(load, f"Clocks step {step}, three times, two workers (times shifted in SQL)")


# --- the broker ---


@on_postgresql
def test_the_broker_killed(load: Load) -> None:
    load.submit(0.4)
    load.worker()
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        load.system.broker._child.kill()
        load.submit(0.1)  # accepted by SQL all the same
        load.system.broker.start()
        load.over()
        load.submit(0.2)
    conclude(load, "kill -9 of the broker (append-only file), twice", orderly=True)


@in_slice
@on_postgresql
def test_the_broker_emptied(load: Load) -> None:
    load.submit(0.4)
    load.system.broker.flush()  # nobody has read any message
    load.worker()
    load.fault()
    load.over()
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        load.system.broker.flush()
        load.over()
        load.submit(0.2)
        load.system.broker.flush()
    conclude(load, "FLUSHALL of the broker, five times", orderly=True)


@on_postgresql
def test_the_broker_refuses_writes(load: Load) -> None:
    load.submit(0.4)
    load.worker()
    load.until_more_ended()
    client = redis.Redis.from_url(load.system.broker.url)
    load.fault()
    client.config_set("maxmemory", "1")
    load.submit(0.2)
    time.sleep(3)
    client.config_set("maxmemory", "0")
    load.over()
    client.close()
    conclude(load, "The broker is full and refuses writes for 3 s", orderly=True)


@on_postgresql
def test_the_broker_hangs(load: Load) -> None:
    load.submit(0.4)
    load.worker()
    load.until_more_ended()
    server = psutil.Process(load.system.broker._child.process.pid)
    load.fault()
    server.suspend()
    load.submit(2 / STUDIES)
    time.sleep(12)  # longer than the worker's socket timeout
    server.resume()
    load.over()
    load.submit(0.2)
    conclude(load, "The broker hangs for more than 12 s (SIGSTOP)", orderly=True)


NOT_OURS = (
    b"",
    b"null",
    b"not JSON",
    b"[" * 100_000,
    b'{"body": "x", "headers": {}, "properties": {}}',
    b'{"body":"W10=","headers":{"task":"os.system","id":"1"},"content-type":"application/json",'
    b'"content-encoding":"utf-8","properties":{"delivery_tag":"1","delivery_info":'
    b'{"exchange":"","routing_key":"routine"},"body_encoding":"base64"}}',
    b"\xff\xfe\x00",
)


@in_slice
@on_sqlite
def test_messages_that_are_not_ours(load: Load) -> None:
    load.submit(0.4)
    client = redis.Redis.from_url(load.system.broker.url)
    client.rpush("routine", *NOT_OURS)
    load.worker()
    for queue in ("stat", "routine", "bulk"):
        load.fault()
        client.rpush(queue, *NOT_OURS)
        client.lpush(queue, *NOT_OURS)
        load.over()
        load.submit(0.2)
        load.until_more_ended(1)
    client.close()
    conclude(load, "Messages on the broker that are not ours, 49 of seven kinds", orderly=True)


# --- SQL ---


@on_postgresql
def test_postgresql_restarts(load: Load, postgres: Postgres) -> None:
    load.submit(0.4)
    load.worker(HILUM_WORKER__LEASE_S="30")
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        postgres.restart()
        load.over()
        load.submit(0.2)
    conclude(load, "PostgreSQL crashes and recovers, twice (leases of 30 s)", orderly=True)


@on_postgresql
def test_postgresql_ends_all_connections(load: Load, postgres: Postgres) -> None:
    load.submit(0.4)
    load.worker()
    name = load.system.url.rpartition("/")[2].partition("?")[0]
    load.fault()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for _ in range(20):
            time.sleep(0.2)
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
    load.over()
    conclude(load, "PostgreSQL ends all connections, every 0.2 s for 4 s", orderly=True)


@on_postgresql
def test_postgresql_hangs(load: Load, postgres: Postgres) -> None:
    load.submit(0.4)
    load.worker()
    load.until_more_ended()
    load.fault()
    with psycopg.connect(postgres.url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test_%'"
        ).fetchall()
    backends = [psutil.Process(pid) for (pid,) in rows]
    for backend in backends:
        backend.suspend()
    time.sleep(LEASE_S + 3)
    for backend in backends:
        backend.resume()
    load.over()
    conclude(load, "PostgreSQL hangs for longer than a lease (SIGSTOP)")


@on_postgresql
def test_postgresql_is_read_only(load: Load, postgres: Postgres) -> None:
    load.submit(0.4)
    load.worker()
    name = load.system.url.rpartition("/")[2].partition("?")[0]
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            connection.execute(end, [name])
            time.sleep(3)
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            connection.execute(end, [name])
        load.over()
        load.system.database.dispose()
        load.submit(0.2)
    conclude(load, "PostgreSQL is read-only for 3 s (failover), twice", orderly=True)


@on_postgresql
def test_deadlocks(load: Load) -> None:
    """Another session locks first what the worker locks last; PostgreSQL ends the worker's."""
    load.submit(0.2)
    load.worker()
    done, found = threading.Event(), list[int]()
    url = load.system.url

    def collide() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET deadlock_timeout = '30s'; SET lock_timeout = '5s'")
            while not done.is_set():
                with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                    held = connection.execute(
                        "SELECT i.job_id FROM items i JOIN jobs j ON j.id = i.job_id WHERE "
                        "j.status = 'running' AND i.status = 'pending' FOR UPDATE OF i"
                    ).fetchall()
                    time.sleep(0.3)
                    ids = [row[0] for row in held]
                    connection.execute("SELECT 1 FROM jobs WHERE id = ANY(%s) FOR UPDATE", [ids])

    thread = threading.Thread(target=collide)
    thread.start()
    load.fault()
    for _ in range(8):
        load.submit(0.1)
        time.sleep(0.7)
    done.set()
    thread.join()
    load.over()
    with load.system.database.read() as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        found.append(connection.execute(text(query)).scalar_one())
    conclude(load, f"Deadlocks in PostgreSQL, {found[0]} of them", orderly=True)


FULL = """
CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON results EXECUTE FUNCTION disk_full();
"""


@on_postgresql
def test_the_disk_of_postgresql_is_full(load: Load) -> None:
    load.submit(0.4)
    load.worker()
    for _ in range(2):
        load.until_more_ended()
        load.fault()
        with psycopg.connect(load.system.url, autocommit=True) as connection:
            connection.execute(FULL)
            time.sleep(3)
            connection.execute("DROP TRIGGER disk_full ON results; DROP FUNCTION disk_full")
        load.over()
        load.submit(0.2)
    conclude(load, "Disk full in PostgreSQL for 3 s (error 53100 of each new result), twice",
             orderly=True)  # fmt: skip


@on_sqlite
def test_the_disk_of_sqlite_is_full(load: Load) -> None:
    import resource

    load.submit(0.4)
    worker = load.worker()
    load.until_more_ended()
    load.fault()
    _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
    family = [worker.process.pid, *(p.pid for p in psutil.Process(worker.process.pid).children())]
    for pid in family:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    time.sleep(3)
    for pid in family:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    load.over()
    conclude(load, "Disk full under the worker for 3 s: no file grows (RLIMIT_FSIZE 0)")


# --- S3 ---


def _through(load: Load, proxy: S3Proxy, **more: str) -> Child:
    short = {"HILUM_S3__MAX_ATTEMPTS": "1", "HILUM_S3__READ_TIMEOUT_S": "10"}
    return load.worker(HILUM_S3__ENDPOINT_URL=proxy.url, **short, **more)


@in_slice
@on_postgresql
def test_s3_is_unavailable(load: Load, proxy: S3Proxy) -> None:
    load.submit(0.4)
    proxy.choose = lambda _: Answer.UNAVAILABLE
    _through(load, proxy)
    for number in range(2):
        load.fault()
        proxy.choose = lambda _: Answer.UNAVAILABLE
        load.submit(0.2)
        time.sleep(3)
        proxy.choose = lambda _: Answer.PASS
        load.over()
        load.until_more_ended(3 + number)
    conclude(load, "S3 answers 503 for 3 s, twice", orderly=True)


@pytest.mark.parametrize("answer", [Answer.FORBIDDEN, Answer.NOT_ALLOWED])
@on_postgresql
def test_s3_refuses_some(load: Load, proxy: S3Proxy, answer: Answer) -> None:
    bad = {uris[-1].partition("//")[2].partition("/")[2] for uris in load.archive[3::7]}
    names = {key.rpartition("/")[2] for key in bad}
    proxy.choose = lambda path: answer if path.rpartition("/")[2] in names else Answer.PASS
    load.submit(0.5)
    load.fault()
    load.over()
    _through(load, proxy)
    code = "storage.access_denied" if answer is Answer.FORBIDDEN else "storage.object_refused"
    conclude(load, f"S3 answers {answer} for each seventh study (permanent)",
             expected={code: len(names)}, orderly=True)  # fmt: skip


@on_postgresql
def test_s3_is_slow_for_some(load: Load, proxy: S3Proxy) -> None:
    slow = {uris[0].rpartition("/")[2] for uris in load.archive[:: max(1, STUDIES // 5)]}
    proxy.choose = lambda path: Answer.SLOW if path.rpartition("/")[2] in slow else Answer.PASS
    load.submit(0.5)
    load.fault()
    load.over()
    _through(load, proxy, HILUM_WORKER__DECODE_THREADS="2")
    conclude(load, "S3 takes 3 s over five films", orderly=True)


@on_postgresql
def test_s3_breaks_off(load: Load, proxy: S3Proxy) -> None:
    seen: dict[str, int] = {}

    def half(path: str) -> Answer:
        seen[path] = seen.get(path, 0) + 1
        return Answer.PARTIAL if seen[path] == 1 else Answer.PASS

    proxy.choose = half
    load.submit(0.5)
    load.fault()
    load.over()
    _through(load, proxy)
    conclude(load, "S3 breaks off in the middle of each object, the first time", orderly=True)
