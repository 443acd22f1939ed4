"""What a process works on: the jobs that it claims, their images, and how each job ends.

Images of all jobs in hand share the threads, the decode processes and the batches
(:class:`hilum.pipeline.execute.Flow`). Between two batches, outcomes are recorded, more urgent jobs
are claimed, and the next images begin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from hilum import tracing
from hilum.db import choosing, jobs
from hilum.db.claims import NotScored, PendingImage, Scored
from hilum.db.patience import Step, T, persist
from hilum.errors import DatabaseUnavailableError, LeaseLostError, UnexpectedError
from hilum.logs import event
from hilum.pipeline.execute import Flow, Outcome, Result, urgent_first
from hilum.pipeline.stages import Ready, Score
from hilum.queue import Queue
from worker import metrics, spans
from worker.hand import Hand, JobInHand, Start
from worker.judging import Judge, exhausted
from worker.outcomes import not_scored
from worker.tools import Ending, Tools, bound

log = logging.getLogger(__name__)

# A process that is told to stop gives back what it cannot finish in this time. Kubernetes kills it
# after 30 s by default.
_STOP_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the jobs that a process had in hand."""

    endings: dict[str, Ending] = field(default_factory=dict)  # by job
    device_lost: bool = False


def work(tools: Tools, *, stop: threading.Event) -> Report:
    """Claim the jobs that come next and score their images, until none is left.

    Every failure of an image, a store or an engine becomes an outcome in SQL.

    Args:
        stop: once it is set, what is being loaded is finished and the jobs are given back.

    Raises:
        DatabaseUnavailableError: the database was unavailable for longer than half the time limit
            of the task. The leases run out, and the sweeper queues the jobs again.
    """
    run = _Run(tools, stop)
    try:
        return run.until_idle()
    finally:
        run.close()


@dataclass(frozen=True, kw_only=True)
class _Key:
    """An image of a job in hand."""

    job: JobInHand = field(repr=False)
    image: PendingImage


class _Run:
    """The work of one process for one task of the broker."""

    def __init__(self, tools: Tools, stop: threading.Event) -> None:
        self._tools = tools
        self._settings = settings = tools.settings
        # Half the hard limit: what is not finished is given back in good time.
        self._until = time.monotonic() + settings.task_time_limit_s / 2
        self._stop = stop
        self._stopped_at: float | None = None
        self._engine_s = 0.0  # of the current batch
        self._engine_ns = (0, 0)  # when it began and ended
        self._looked_at = float("-inf")
        self._judge = Judge(tools)
        self._report: dict[str, Ending] = {}
        # Enough for a batch in the engine and one behind it, whatever size suits the engine.
        enough = 2 * settings.batch_size + settings.decode_threads
        self.hand = Hand(
            max_jobs=settings.jobs_in_hand, max_images=max(settings.images_in_flight, enough)
        )
        self._flow: Flow[_Key] = Flow(
            self._load,
            self._score,
            threads=tools.threads,
            choose=urgent_first(
                settings.batch_size,
                wait_s=settings.batch_wait_s,
                at_most=lambda: tools.pace.images_in(settings.engine_call_s),
            ),
        )

    def until_idle(self) -> Report:
        outcomes: list[Outcome[_Key]] = []
        while True:
            self._drop(self._tools.leases.take_lost(), Ending.LEASE_LOST)
            self._record(outcomes)
            ends = self._has_to_end()
            if ends:
                self._give_way()
            else:
                self._claim()
                self._begin(self.hand.take_starts())
            for job in self.hand.idle():
                self._conclude(job)
            if not self.hand.jobs and (ends or not self._claim()):
                return Report(endings=self._report, device_lost=self._judge.device_lost)
            if not self._hangs():
                self._tools.on_progress()
            outcomes = self._flow.step(self._settings.poll_s)

    def close(self) -> None:
        """Load and renew nothing more: what is still in hand is left to its lease."""
        self._flow.withdraw()
        self._tools.leases.drop({*self.hand.jobs})
        for job in self.hand.jobs.values():
            job.span.end(code="broken_off")

    # --- what is in hand ---

    def _has_to_end(self) -> bool:
        if self._stop.is_set() and self._stopped_at is None:
            self._stopped_at = time.monotonic()
        late = time.monotonic() > self._until
        return self._stopped_at is not None or self._judge.device_lost or late

    def _claim(self) -> int:
        """Claim what there is room for. Returns the number of jobs."""
        tools, settings = self._tools, self._settings
        rooms = self.hand.rooms(tools.queues)
        now = time.monotonic()
        if not rooms or (now < self._looked_at + settings.poll_s and self.hand.jobs):
            return 0
        self._looked_at = now
        if self.hand.jobs and not self._finds_due([room.queue for room in rooms]):
            return 0
        claims = self._write(
            lambda connection: jobs.claim_next(
                connection,
                rooms,
                lease_s=settings.lease_s,
                max_unreported=settings.max_job_attempts,
                model_id=tools.model_id,
                max_running_jobs=settings.max_running_jobs,
            )
        )
        tools.leases.hold(claims)
        opened = spans.start_jobs(tools.database, claims)
        for claim in claims:
            job = JobInHand.of(claim, max_image_attempts=settings.max_image_attempts)
            job.span = opened.get(claim.job_id, job.span)
            self.hand.jobs[claim.job_id] = job
            with bound(claim):
                event(log, logging.INFO, "job.taken", attempt=claim.attempt)
        self._write_outcomes(
            [
                (job, [exhausted(image, settings) for image in job.exhausted])
                for claim in claims
                for job in [self.hand.jobs[claim.job_id]]
                if job.exhausted or not job.waiting
            ]
        )
        return len(claims)

    def _finds_due(self, queues: Sequence[Queue]) -> bool:
        try:
            with self._tools.database.read() as connection:
                return bool(choosing.find_due(connection, queues, model_id=self._tools.model_id))
        except DatabaseUnavailableError:
            return False  # there is other work

    def _begin(self, starts: Sequence[Start]) -> None:
        if not starts:
            return
        by_job: dict[JobInHand, list[str]] = defaultdict(list)
        for start in starts:
            by_job[start.job].append(start.image.image_id)
        first = [job.claim for job in by_job if not job.begun]
        held = self._write(
            lambda connection: jobs.begin_many(
                connection,
                [(job.claim, ids) for job, ids in by_job.items()],
                first=first,
                lease_s=self._settings.lease_s,
            )
        )
        self._drop({job.claim.job_id for job in by_job} - held, Ending.LEASE_LOST)
        for start in starts:
            if start.job.claim.job_id in held:
                start.job.begun = True
                with bound(start.job.claim):
                    key = _Key(job=start.job, image=start.image)
                    self._flow.start(key, urgency=start.job.urgency)

    def _give_way(self) -> None:
        """Start nothing more, and give back what has not begun to load; after some time, all."""
        for key in self._flow.withdraw():
            key.job.refunded.append(key.image.image_id)
            self.hand.end(key.job, key.image.image_id)
        stopped = self._stopped_at
        overdue = stopped is not None and time.monotonic() > stopped + _STOP_S
        for job in self.hand.jobs.values():
            job.stop()
            if overdue:
                job.refunded += job.in_flight
                job.in_flight.clear()

    def _drop(self, job_ids: set[str], ending: Ending) -> None:
        for job_id in job_ids & {*self.hand.jobs}:
            self._end(self.hand.jobs[job_id], ending)

    def _end(self, job: JobInHand, ending: Ending) -> None:
        claim = job.claim
        self.hand.drop([claim.job_id])
        self._tools.leases.drop({claim.job_id})
        self._report[claim.job_id] = ending
        job.span.end(code=ending)
        with bound(claim):
            event(log, logging.INFO, f"job.{ending}", attempt=claim.attempt)

    def _hangs(self) -> bool:
        """Whether an image has been loading for too long. Batches are timed by not coming back."""
        longest = self._settings.no_progress_s
        now = time.monotonic()
        return any(
            each.done is None and each.began is not None and now - each.began > longest
            for each in self._flow.images
        )

    # --- images ---

    def _load(self, key: _Key) -> Ready:
        remember = partial(self._judge.seen.__setitem__, key.image.image_id)
        urgent = key.job.urgency == 0
        with tracing.under(key.job.span.header, image=key.image.position):
            return self._tools.loader.load(key.image.uri, on_header=remember, urgent=urgent)

    def _score(self, ready: Sequence[Ready]) -> list[Result]:
        scorer = self._tools.scorer
        began, began_ns = time.monotonic(), time.time_ns()
        results = scorer.score_each(ready)
        self._engine_s = time.monotonic() - began
        self._engine_ns = (began_ns, time.time_ns())
        self._tools.pace.note(self._engine_s / len(ready))
        count = sum(isinstance(result, Score) for result in results)
        metrics.count_batch(scorer.engine.name, images=count, seconds=self._engine_s)
        return results

    def _record(self, outcomes: Sequence[Outcome[_Key]]) -> None:
        by_job: dict[JobInHand, list[Outcome[_Key]]] = defaultdict(list)
        for outcome in outcomes:
            self.hand.end(outcome.key.job, outcome.key.image.image_id)
            by_job[outcome.key.job].append(outcome)
        spans.record_engine(by_job, self._engine_ns, engine=self._tools.scorer.engine.name)
        ended = [
            (job, self._judge.sort(job, [(o.key.image, o.result) for o in each]))
            for job, each in by_job.items()
            # It may have been lost, and claimed anew by this process.
            if self.hand.jobs.get(job.claim.job_id) is job
        ]
        self._write_outcomes([(job, each) for job, each in ended if each])
        engine_s, self._engine_s = round(self._engine_s, 3), 0.0
        for job, each in by_job.items():
            scored = sum(isinstance(outcome.result, Score) for outcome in each)
            with bound(job.claim):
                fields = {"images": len(each), "scored": scored, "engine_s": engine_s}
                event(log, logging.INFO, "job.batch", **fields)

    # --- SQL ---

    def _write_outcomes(
        self, work: Sequence[tuple[JobInHand, Sequence[Scored | NotScored]]]
    ) -> None:
        if not work:
            return
        pairs = [(job.claim, outcomes) for job, outcomes in work]
        began_ns = time.time_ns()
        try:
            recorded = self._write(
                lambda c: jobs.record_many(c, pairs, lease_s=self._settings.lease_s)
            )
        except UnexpectedError as error:
            self._write_singly(work, error)
            return
        spans.record_commit(work, (began_ns, time.time_ns()))
        by_id = {job.claim.job_id: (job, outcomes) for job, outcomes in work}
        self._drop({*by_id} - recorded.held, Ending.LEASE_LOST)
        for job_id in recorded.held:
            job, outcomes = by_id[job_id]
            job.progress = job.progress or bool(outcomes)
            metrics.count_outcomes(outcomes)
        self._drop(recorded.ended, Ending.COMPLETED)

    def _write_singly(
        self,
        work: Sequence[tuple[JobInHand, Sequence[Scored | NotScored]]],
        error: UnexpectedError,
    ) -> None:
        """SQL refused a value: find out whose it is, and record the other outcomes."""
        each = [(job, outcome) for job, outcomes in work for outcome in outcomes]
        if len(each) > 1:
            for job, outcome in each:
                self._write_outcomes([(job, [outcome])])
        elif each and isinstance(each[0][1], Scored):
            job, outcome = each[0]
            self._write_outcomes([(job, [not_scored(outcome.image_id, error)])])
        elif each and each[0][1].instance is not None:
            job, outcome = each[0]
            self._write_outcomes([(job, [replace(outcome, instance=None)])])
        else:
            raise error

    def _conclude(self, job: JobInHand) -> None:
        """Give a job back that has images left, or give it up."""
        ending, step = self._judge.last_step(job)
        try:
            self._write(step)
        except LeaseLostError:
            ending = Ending.LEASE_LOST
        self._end(job, ending)

    def _write(self, step: Step[T]) -> T:
        return persist(
            self._tools.database,
            step,
            patience_s=max(0.0, self._until - time.monotonic()),
            stop=self._stop,
            on_wait=self._tools.on_progress,
        )
