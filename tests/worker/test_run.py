"""A job from its claim to each of its ends, on a real database.

Films are real ones of memory, the engine is ONNX Runtime's; a script makes either fail where the
real one cannot be made to.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, Sequence
from sqlalchemy import func, select, update
from support import tiny_package
from support.collector import attributes, collecting
from support.ready import ready
from support.tiny_film import film

from hilum import tracing
from hilum.db import jobs, migrate, models, results, studies, sweeper, traces
from hilum.db.connection import Database
from hilum.db.results import StoredResult
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.studies import ImageState, StudyState, Submission
from hilum.db.tables import FIRST_PIPELINE, images, items, outbox
from hilum.db.tables import jobs as jobs_table
from hilum.engines import Engine, EngineOutput
from hilum.engines.loading import open_engine
from hilum.errors import (
    DeviceLostError,
    EngineFailedError,
    ObjectMissingError,
    StorageUnavailableError,
)
from hilum.packages.load import Package, verify
from hilum.pipeline.load import Loader
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import ExamineOptions, Ready
from hilum.pipeline.threads import LoadThreads
from hilum.queue import Queue
from hilum.settings import Limits, S3Settings, Settings, WorkerSettings
from hilum.storage import open_store
from worker import outcomes
from worker.lease import Leases
from worker.run import Report, work
from worker.tools import Ending, Tools

PATIENCE_S = 30
TENANT = "north"
SETTINGS = WorkerSettings(
    batch_size=2,
    batch_wait_s=60,
    engine_call_s=60,
    images_in_flight=4,
    decode_threads=2,
    lease_s=60,
    max_image_attempts=3,
    retry_base_s=60,
    give_up_after_s=3600,
)
Step = Callable[[int], None]


@dataclass
class Scripted:
    """Films by the number in their address. ``before`` runs in place of trouble with the store."""

    package: Package
    before: Step = lambda number: None
    change: Callable[[int, Ready], Ready] = lambda number, image: image
    loaded: list[int] = field(default_factory=list)

    def load(self, uri: str, *, on_header: object = None, urgent: bool = False) -> Ready:
        number = int(uri.removesuffix(".dcm").rpartition("/")[2])
        self.before(number)
        self.loaded.append(number)
        return self.change(number, ready(self.package, film(number)))


class Watched:
    """The real engine, with a note of its batches, after a step of the script."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.batches: list[int] = []
        self.before: Step = lambda size: None
        self._engine = engine

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        self.batches.append(len(images))
        self.before(len(images))
        return self._engine.run(images)


@dataclass
class Bench:
    """A worker process without Celery, whose films, engine and clock the test holds."""

    tools: Tools
    films: Scripted
    engine: Watched
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def database(self) -> Database:
        return self.tools.database

    def submit(
        self, images: int, queue: Queue = Queue.ROUTINE, *, first: int = 0, **more: Any
    ) -> Submission:
        uris = [f"s3://bucket/{n}.dcm" for n in range(first, first + images)]
        return studies.submit(self.database, tenant=TENANT, queue=queue, uris=uris, **more)

    def run(self, made: Submission, **settings: object) -> Ending | None:
        """Work until idle; how the work on this job ended."""
        return self.report(**settings).endings.get(made.job_id)

    def report(self, **settings: object) -> Report:
        changed = self.tools.settings.model_copy(update=settings)
        return work(replace(self.tools, settings=changed), stop=self.stop)

    def state(self, made: Submission) -> StudyState:
        with self.database.read() as connection:
            found = studies.get(connection, tenant=TENANT, study_id=made.study_id)
        assert found is not None
        return found

    def images(self, made: Submission) -> list[ImageState]:
        with self.database.read() as connection:
            return studies.list_images(connection, study=self.state(made), limit=100)

    def ends(self, made: Submission) -> list[str]:
        """By position: the status, or the code of the error."""
        return [one.error["code"] if one.error else one.status for one in self.images(made)]

    def owed(self) -> list[Event]:
        with self.database.read() as connection:
            return [Event(kind) for kind in connection.execute(select(outbox.c.kind)).scalars()]

    def unreported(self) -> list[int]:
        """Of each image: how often it was begun and not heard of again."""
        with self.database.read() as connection:
            query = select(items.c.unreported).join(images).order_by(images.c.position)
            return list(connection.execute(query).scalars())

    def die(self, made: Submission, positions: list[int], times: int = 1) -> None:
        """As workers that begin these images and are killed: their leases run out."""
        ids = [one.id for one in self.images(made) if one.position in positions]
        for _ in range(times):
            with self.database.write() as connection:
                claim = jobs.claim(connection, made.job_id, lease_s=-1, max_unreported=99)
                assert claim is not None
                jobs.begin(connection, claim, ids, lease_s=-1)
                sweeper.expire_leases(connection)

    def due(self, made: Submission) -> None:
        """The wait is over."""
        with self.database.write() as connection:
            connection.execute(
                update(jobs_table)
                .where(jobs_table.c.id == made.job_id)
                .values(available_at=datetime.now(UTC) - timedelta(seconds=1))
            )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("tiny") / "package"
    tiny_package.build(folder)
    return verify(folder)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "hilum.db"
    migrate.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def bench(package: Package, migrated: Path, tmp_path: Path) -> Iterator[Bench]:
    file = shutil.copy(migrated, tmp_path / "hilum.db")
    engine = Watched(open_engine(package, Settings(engine="onnxruntime")))
    scorer = Scorer(package, engine)
    films = Scripted(package)
    threads = LoadThreads(2, reserved=1)
    with Database(f"sqlite:///{file}") as database:
        with database.write() as connection:
            model_id = models.register(connection, **package.manifest.registration())
        tools = Tools(
            database=database,
            loader=films,  # a script in its place
            scorer=scorer,
            model_id=model_id,
            threads=threads,
            leases=Leases(),
            settings=SETTINGS,
        )
        yield Bench(tools, films, engine)
    threads.shutdown()


def unavailable(*numbers: int) -> Step:
    def step(number: int) -> None:
        if number in numbers or not numbers:
            raise StorageUnavailableError("The store answered 503.")

    return step


def test_a_job_is_completed(bench: Bench) -> None:
    made = bench.submit(5)
    assert bench.run(made) is Ending.COMPLETED
    assert bench.ends(made) == ["scored"] * 5
    assert bench.engine.batches == [2, 2, 1]
    assert bench.owed() == [Event.JOB_COMPLETED]
    state = bench.state(made)
    assert (state.status, state.attempts, state.error) == (JobStatus.COMPLETED, 1, None)


def test_what_is_not_there_to_be_taken_is_not_taken(bench: Bench) -> None:
    made, held = bench.submit(1), bench.submit(1)
    with bench.database.write() as connection:
        assert jobs.claim(connection, held.job_id, lease_s=60, max_unreported=8) is not None
    assert bench.report().endings == {made.job_id: Ending.COMPLETED}, "another worker holds one"
    assert bench.report().endings == {}, "it has ended"
    late = bench.submit(1)
    bench.films.before = unavailable()
    assert bench.run(late) is Ending.DEFERRED
    assert bench.report().endings == {}, "it is not due"


def test_a_job_that_workers_take_and_never_report_on_is_quarantined_unread(bench: Bench) -> None:
    made = bench.submit(2)
    bench.die(made, [], times=2)
    assert bench.run(made, max_job_attempts=2) is None
    assert bench.state(made).status is JobStatus.FAILED
    assert bench.films.loaded == []


def test_the_next_batch_is_loaded_while_the_engine_runs_and_no_more_than_that(
    bench: Bench,
) -> None:
    next_loaded, begun = threading.Event(), []

    def load(number: int) -> None:
        if number == 2:
            next_loaded.set()

    def run(_: int) -> None:
        assert next_loaded.wait(PATIENCE_S)
        begun.append(sum(bench.unreported()))

    bench.films.before, bench.engine.before = load, run
    made = bench.submit(7)
    assert bench.run(made) is Ending.COMPLETED
    assert begun == [6, 7, 7, 7], "two batches, and one image for each thread"
    assert bench.films.loaded[:2] != [2, 3]


def test_suspects_are_alone_on_the_table(bench: Bench) -> None:
    made = bench.submit(5)
    bench.die(made, [1, 3])
    tables: list[set[int]] = []
    before = dict(enumerate(bench.unreported()))

    def load(number: int) -> None:
        if number in (1, 3):
            now = bench.unreported()
            begun = {n for n in before if now[n] > before[n]}
            ended = {n for n, end in enumerate(bench.ends(made)) if end == "scored"}
            tables.append(begun - ended)

    bench.films.before = load
    assert bench.run(made) is Ending.COMPLETED
    assert bench.engine.batches == [2, 1, 1, 1]
    assert tables == [{1}, {3}]
    assert bench.films.loaded[-2:] == [1, 3]


def test_an_image_that_killed_too_many_workers_is_given_up_alone(bench: Bench) -> None:
    made = bench.submit(3)
    bench.die(made, [1], times=3)
    assert bench.run(made) is Ending.COMPLETED
    assert bench.ends(made) == ["scored", "job.attempts_exhausted", "scored"]
    assert bench.images(made)[1].status is ItemStatus.FAILED
    assert 1 not in bench.films.loaded
    only = bench.submit(1)
    bench.die(only, [0], times=3)
    assert bench.run(only) is Ending.COMPLETED
    assert bench.ends(only) == ["job.attempts_exhausted"]


def test_a_bad_image_ends_and_the_others_are_scored(bench: Bench) -> None:
    def load(number: int) -> None:
        if number == 1:
            raise KeyError("DOE^JANE")

    bench.films.before = load
    made = bench.submit(3)
    bench.films.change = lambda number, image: (
        ready(bench.films.package, film(2, BodyPartExamined="HAND")) if number == 2 else image
    )
    assert bench.run(made) is Ending.COMPLETED
    assert bench.ends(made) == ["scored", "internal.unexpected", "policy.not_chest"]
    assert [one.status for one in bench.images(made)] == ["scored", "failed", "refused"]


def test_an_image_that_meets_a_transient_error_defers_the_job_and_the_rest_is_kept(
    bench: Bench,
) -> None:
    bench.films.before = unavailable(0)
    made = bench.submit(3)
    assert bench.run(made) is Ending.DEFERRED
    assert bench.ends(made) == ["storage.unavailable", "scored", "scored"]
    state = bench.state(made)
    assert (state.status, state.counts[ItemStatus.PENDING]) == (JobStatus.QUEUED, 1)
    assert state.error is not None
    assert state.error["code"] == "storage.unavailable"
    bench.films.before = lambda number: None
    bench.due(made)
    assert bench.run(made) is Ending.COMPLETED
    assert bench.films.loaded.count(0) == 1
    assert bench.owed() == [Event.JOB_COMPLETED]


def test_where_a_whole_batch_meets_a_transient_error_the_rest_is_not_tried(bench: Bench) -> None:
    tried: list[int] = []

    def load(number: int) -> None:
        tried.append(number)
        raise StorageUnavailableError("The store answered 503.")

    bench.films.before = load
    made = bench.submit(10)
    assert bench.run(made) is Ending.DEFERRED
    assert sorted(tried) == [*range(len(tried))]
    assert len(tried) <= 8, "those in flight, and the batch before them"
    assert bench.unreported() == [0] * 10, "those begun came back"


def test_trouble_that_lasts_too_long_ends_in_quarantine(bench: Bench) -> None:
    bench.films.before = unavailable()
    made = bench.submit(1)
    assert bench.run(made) is Ending.DEFERRED
    bench.due(made)
    assert bench.run(made) is Ending.DEFERRED
    bench.due(made)
    assert bench.run(made, give_up_after_s=1e-9) is Ending.QUARANTINED
    state = bench.state(made)
    assert (state.status, state.counts[ItemStatus.FAILED]) == (JobStatus.FAILED, 1)
    assert bench.ends(made) == ["storage.unavailable"]
    assert bench.owed() == [Event.JOB_FAILED]


def test_progress_begins_the_trouble_anew(bench: Bench) -> None:
    bench.films.before = unavailable()
    made = bench.submit(2)
    assert bench.run(made) is Ending.DEFERRED
    bench.due(made)
    bench.films.before = unavailable(1)
    assert bench.run(made, give_up_after_s=1e-9) is Ending.DEFERRED, "an image was scored"


def test_a_lease_that_passed_to_another_worker_ends_the_work_and_writes_nothing(
    bench: Bench,
) -> None:
    made = bench.submit(3)

    def load(number: int) -> None:
        if number == 0:
            with bench.database.write() as connection:
                connection.execute(update(jobs_table).values(attempts=jobs_table.c.attempts + 1))

    bench.films.before = load
    assert bench.run(made) is Ending.LEASE_LOST
    assert bench.ends(made) == ["pending"] * 3
    with bench.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(outbox)).scalar_one() == 0


def test_a_job_that_was_lost_and_claimed_anew_is_not_lost_again(bench: Bench) -> None:
    made = bench.submit(1)
    calls: list[int] = []

    def load(number: int) -> None:
        calls.append(number)
        until = time.monotonic() + PATIENCE_S
        if len(calls) > 1:
            while not bench.engine.batches and time.monotonic() < until:
                time.sleep(0.01)  # the first loading comes to its end meanwhile
            return
        with bench.database.write() as connection:
            then = datetime.now(UTC) - timedelta(seconds=1)
            connection.execute(update(jobs_table).values(lease_until=then))
            assert sweeper.expire_leases(connection) == 1
        bench.tools.leases.renew(bench.database, lease_s=60)
        while len(calls) < 2 and time.monotonic() < until:
            time.sleep(0.01)

    bench.films.before = load
    assert bench.run(made, batch_wait_s=0, poll_s=1e-3) is Ending.COMPLETED
    assert bench.state(made).attempts == 2


def missing(*numbers: int) -> Step:
    def step(number: int) -> None:
        if number in numbers:
            raise ObjectMissingError("The object or its bucket does not exist.")

    return step


def test_an_object_that_is_not_there_yet_is_awaited(bench: Bench) -> None:
    bench.films.before = missing(0)
    made = bench.submit(3, object_wait_s=3600)
    assert bench.run(made) is Ending.DEFERRED
    assert bench.ends(made) == ["storage.object_awaited", "scored", "scored"]
    bench.films.before = missing()
    bench.due(made)
    assert bench.run(made) is Ending.COMPLETED
    assert bench.ends(made) == ["scored"] * 3


def test_an_object_that_does_not_come_is_missing(bench: Bench) -> None:
    """After the time of its study, or that of the setting; however long other trouble may last."""
    bench.films.before = missing(0)
    made = bench.submit(1)
    assert bench.run(made, object_wait_s=3600, give_up_after_s=1e-9) is Ending.DEFERRED
    bench.due(made)
    assert bench.run(made, object_wait_s=3600, give_up_after_s=1e-9) is Ending.DEFERRED
    bench.due(made)
    assert bench.run(made, object_wait_s=0) is Ending.COMPLETED
    assert bench.ends(made) == ["storage.object_missing"]
    at_once = bench.submit(1, object_wait_s=0)
    assert bench.run(at_once, object_wait_s=3600) is Ending.COMPLETED


def test_jobs_share_batches(bench: Bench) -> None:
    made = [bench.submit(1, first=n) for n in range(4)]
    endings = bench.report().endings
    assert [endings[one.job_id] for one in made] == [Ending.COMPLETED] * 4
    assert bench.engine.batches == [2, 2]
    assert bench.owed() == [Event.JOB_COMPLETED] * 4


def test_an_urgent_job_that_comes_meanwhile_is_scored_next(bench: Bench) -> None:
    urgent: list[Submission] = []

    def run(_: int) -> None:
        if not urgent:
            urgent.append(bench.submit(1, Queue.STAT, first=50))

    def load(number: int) -> None:
        # From then on, all but the urgent film wait for its end.
        while urgent and number < 50 and bench.state(urgent[0]).status is not JobStatus.COMPLETED:
            time.sleep(0.01)

    bench.engine.before, bench.films.before = run, load
    bulk = bench.submit(12, Queue.BULK)
    assert bench.run(bulk, poll_s=1e-3) is Ending.COMPLETED
    assert bench.state(urgent[0]).status is JobStatus.COMPLETED
    assert sum(bench.engine.batches) == 13
    assert 1 in bench.engine.batches, "the urgent film went alone"


def test_a_suspect_is_alone_among_all_jobs_in_hand(bench: Bench) -> None:
    suspicious, others = bench.submit(1, first=90), bench.submit(6)
    bench.die(suspicious, [0])
    beside: list[int] = []

    def load(number: int) -> None:
        if number == 90:
            begun = {n for n, times in enumerate(bench.unreported()) if times}
            ended = {n for n, end in enumerate(bench.ends(others)) if end == "scored"}
            beside.append(len(begun) - len(ended))

    bench.films.before = load
    assert bench.run(suspicious) is Ending.COMPLETED
    assert bench.state(others).status is JobStatus.COMPLETED
    assert len(beside) == 1


def test_a_worker_that_stops_refunds_what_it_had_not_loaded(bench: Bench) -> None:
    def load(number: int) -> None:
        bench.stop.set()
        time.sleep(0.3)  # until the worker has seen it

    bench.films.before = load
    made = bench.submit(9)
    assert bench.run(made, images_in_flight=9) is Ending.RELEASED
    pending = [n for n, end in enumerate(bench.ends(made)) if end == "pending"]
    assert pending
    assert [bench.unreported()[n] for n in pending] == [0] * len(pending)


def test_a_lost_device_gives_the_job_back_at_once(bench: Bench) -> None:
    def run(_: int) -> None:
        raise DeviceLostError("The GPU was lost in cudaStreamSynchronize.")

    bench.engine.before = run
    made = bench.submit(2)
    report = bench.report()
    assert report.device_lost
    assert report.endings == {made.job_id: Ending.DEFERRED}
    state = bench.state(made)
    assert (state.status, state.counts[ItemStatus.PENDING]) == (JobStatus.QUEUED, 2)


def test_an_engine_that_fails_over_one_image_fails_that_one(bench: Bench) -> None:
    def run(size: int) -> None:
        if size > 1 or len(bench.engine.batches) == 2:
            raise EngineFailedError("Out of some resource.")

    bench.engine.before = run
    made = bench.submit(2)
    bench.run(made)
    assert bench.engine.batches == [2, 1, 1]
    assert sorted(bench.ends(made)) != ["scored", "scored"]
    assert bench.ends(made)[1] == "scored"


def test_a_worker_that_stops_finishes_what_it_began_and_gives_the_rest_back(
    bench: Bench,
) -> None:
    bench.films.before = lambda number: bench.stop.set()
    made = bench.submit(9)
    assert bench.run(made) is Ending.RELEASED
    ends = bench.ends(made)
    begun = ends.count("scored")
    assert 0 < begun <= 6, "what was in flight"
    assert ends == ["scored"] * begun + ["pending"] * (9 - begun)
    bench.films.before = lambda number: None
    bench.stop.clear()
    assert bench.run(made) is Ending.COMPLETED
    assert bench.state(made).attempts == 2


def test_a_long_study_gives_way_at_half_its_time_limit(bench: Bench) -> None:
    bench.films.before = lambda number: time.sleep(0.6)
    made = bench.submit(9)
    assert bench.run(made, task_time_limit_s=1) is Ending.RELEASED
    assert 0 < bench.ends(made).count("scored") < 9


def test_a_value_that_sql_refuses_costs_its_own_image(bench: Bench) -> None:
    def change(number: int, image: Ready) -> Ready:
        if number != 1:
            return image
        return replace(image, header=replace(image.header, sop_instance_uid=None))  # type: ignore[arg-type]

    bench.films.change = change
    made = bench.submit(4)
    assert bench.run(made) is Ending.COMPLETED
    assert bench.ends(made) == ["scored", "internal.unexpected", "scored", "scored"]
    assert bench.owed() == [Event.JOB_COMPLETED]


def test_a_film_that_was_scored_wrongly_gets_a_new_result_when_it_comes_again(
    bench: Bench, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of a VOI LUT that was a little short were read as bytes up to version 2."""

    def with_lut(entries: npt.NDArray[np.uint16]) -> bytes:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4096, 0, 12])
        table.add_new("LUTData", "OW", entries.tobytes())
        return film(3, VOILUTSequence=Sequence([table]))

    words = np.arange(4090, dtype="<u2")
    as_bytes = words.view(np.uint8)[:4096].astype("<u2")
    right, wrong = ready(package, with_lut(words)), ready(package, with_lut(as_bytes))
    wrong = replace(wrong, content_sha256=right.content_sha256)

    def shown(image: Ready) -> StoredResult:
        bench.films.change = lambda number, _: image
        made = bench.submit(1)
        assert bench.run(made) is Ending.COMPLETED
        (one,) = bench.images(made)
        with bench.database.read() as connection:
            found = results.get(connection, one.result_id or 0)
        assert found is not None
        return found

    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "pipeline_version", lambda: FIRST_PIPELINE)
        before = shown(wrong)
    after = shown(right)
    assert before.id != after.id
    assert before.model.id == after.model.id
    (expected,) = bench.tools.scorer.score([right])
    assert np.array_equal(after.raw, expected.raw)
    assert not np.array_equal(before.raw, after.raw)


def test_a_job_is_traced_from_its_message_to_its_ending(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    for number in (0, 1):
        (tmp_path / f"{number}.dcm").write_bytes(film(number))
    (tmp_path / "2.dcm").write_bytes(b"MILLER^JANE")
    options = ExamineOptions.of(bench.films.package.manifest, Limits())
    store = open_store(S3Settings(), Limits(), allow_local=True)
    bench.tools = replace(bench.tools, loader=Loader(options, store))
    uris = [str(tmp_path / f"{number}.dcm") for number in range(3)]
    made = studies.submit(bench.database, tenant=TENANT, queue=Queue.ROUTINE, uris=uris)
    other = studies.submit(bench.database, tenant=TENANT, queue=Queue.ROUTINE, uris=uris[:1])
    with bench.database.write() as connection:
        traces.remember(connection, made.job_id, f"00-{'a' * 32}-{'b' * 16}-01")
    with collecting() as collector:
        tracing.configure(collector.settings, service="test")
        report = bench.report(batch_size=4)
        tracing.close()
        spans = collector.spans()
    assert report.endings == dict.fromkeys((made.job_id, other.job_id), Ending.COMPLETED)
    by_job = {attributes(span)["hilum.job"]: span for span in spans if span.name == "job"}
    job, own = by_job[made.job_id], by_job[other.job_id]
    assert job.trace_id.hex() == "a" * 32
    assert job.parent_span_id.hex() == "b" * 16, "the message was published there"
    assert not own.parent_span_id, "nobody traced its request"
    assert attributes(job) == {
        "hilum.job": made.job_id,
        "hilum.study": made.study_id,
        "hilum.queue": "routine",
        "hilum.code": "completed",
    }
    below = [span for span in spans if span.parent_span_id == job.span_id]
    assert {span.trace_id for span in below} == {job.trace_id}
    assert all(
        job.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        and span.end_time_unix_nano <= job.end_time_unix_nano
        for span in below
    )
    said = defaultdict(list)
    for span in below:
        said[span.name].append(attributes(span))
    assert sorted(one["hilum.image"] for one in said["fetch"]) == [0, 1, 2]
    failed = {one["hilum.image"]: one.get("hilum.code") for one in said["decode"]}
    assert failed == {0: None, 1: None, 2: "dicom.not_dicom"}
    assert sum(one["hilum.images"] for one in said["commit"]) == 3
    assert {one["hilum.engine"] for one in said["engine"]} == {bench.engine.name}
    calls = [one["hilum.images"] for one in said["engine"]]
    assert set(calls) <= set(bench.engine.batches)
    mine = [span.name for span in spans if span.parent_span_id == own.span_id]
    assert sorted(mine) == ["commit", "decode", "engine", "fetch"]
    assert set(said) == {*mine}
    for hidden in (b".dcm", b"MILLER", b"1.2.826", TENANT.encode()):
        assert not any(hidden in body for body in collector.bodies)
