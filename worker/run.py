"""One job, from its claim to its end: its lease, the order of its images, and their outcomes.

The images are loaded and scored by :func:`hilum.pipeline.execute.execute`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from hilum import logs
from hilum.db import jobs
from hilum.db.claims import Claim, NotScored, PendingImage, Scored
from hilum.db.connection import Database
from hilum.db.identity import IdentityVault
from hilum.db.instances import NewInstance
from hilum.db.patience import Step, T, persist
from hilum.errors import (
    AttemptsExhaustedError,
    DeviceLostError,
    HilumError,
    LeaseLostError,
    PermanentError,
    UnexpectedError,
)
from hilum.logs import event
from hilum.pipeline.execute import Batch, Outcome, Result, execute
from hilum.pipeline.load import Loader, Seen
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Ready, Score
from hilum.settings import WorkerSettings
from worker import lease, metrics
from worker.batches import plan
from worker.instances import new_instance
from worker.outcomes import not_scored, scored

log = logging.getLogger(__name__)


class Ending(StrEnum):
    """How the work of a worker on a job ended."""

    NOT_TAKEN = "not_taken"  # ended before, not due, or held by another worker
    COMPLETED = "completed"
    DEFERRED = "deferred"  # given back after a transient error
    RELEASED = "released"  # given back because this worker stops, or has held it for long enough
    QUARANTINED = "quarantined"
    LEASE_LOST = "lease_lost"
    DEVICE_LOST = "device_lost"  # given back: this process has lost its GPU


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The parts that a pool process uses for all its jobs."""

    database: Database
    loader: Loader
    scorer: Scorer
    model_id: int
    threads: ThreadPoolExecutor  # load images
    settings: WorkerSettings
    vault: IdentityVault | None = None  # None: no identity is stored


def run_job(tools: Tools, job_id: str, *, stop: threading.Event) -> Ending:
    """Claim the job if it is free, and score its images.

    Every failure of an image, a store or an engine becomes an outcome in SQL.

    Args:
        stop: once it is set, the current batches are finished and the job is given back.

    Raises:
        DatabaseUnavailableError: the database was unavailable for longer than half the time limit
            of the task. The lease runs out, and the sweeper queues the job again.
    """
    began = time.monotonic()
    settings = tools.settings
    claim = persist(
        tools.database,
        lambda connection: jobs.claim(
            connection,
            job_id,
            lease_s=settings.lease_s,
            max_unreported=settings.max_job_attempts,
            model_id=tools.model_id,
        ),
        patience_s=settings.task_time_limit_s / 2,
        stop=stop,
    )
    if claim is None:
        return Ending.NOT_TAKEN
    logs.add(study=claim.study_id)
    event(log, logging.INFO, "job.taken", attempt=claim.attempt)
    try:
        with lease.keep(tools.database, claim, lease_s=settings.lease_s) as lost:
            ending = _Run(tools, claim, began=began, stop=stop, lost=lost).finish_or_give_back()
    except LeaseLostError:
        ending = Ending.LEASE_LOST
    seconds = round(time.monotonic() - began, 3)
    event(log, logging.INFO, f"job.{ending}", attempt=claim.attempt, seconds=seconds)
    return ending


class _Run:
    """The work on one claim. Batches overlap: one is in the engine while the next is loaded."""

    def __init__(
        self,
        tools: Tools,
        claim: Claim,
        *,
        began: float,
        stop: threading.Event,
        lost: threading.Event,
    ) -> None:
        self._tools = tools
        self._claim = claim
        self._settings = tools.settings
        # Half the hard limit: a long study is given back in good time and continued later.
        self._until = began + tools.settings.task_time_limit_s / 2
        self._stop = stop
        self._lost = lost
        self._waiting: dict[str, HilumError] = {}  # images that failed with a transient error
        self._seen: dict[str, Seen] = {}  # by image: what was read of its header
        self._hopeless = False  # a whole batch did: the store is unavailable
        self._progress = False
        self._ended = False
        self._engine_s = 0.0  # of the current batch

    def finish_or_give_back(self) -> Ending:
        """Work until the job has ended or has to be given back.

        Raises:
            LeaseLostError, DatabaseUnavailableError: see :func:`run_job`.
        """
        settings = self._settings
        todo = plan(
            self._claim.pending,
            batch_size=settings.batch_size,
            max_attempts=settings.max_image_attempts,
        )
        if todo.exhausted or not todo.batches:
            self._record([_exhausted(image, settings) for image in todo.exhausted])
        outcomes = execute(
            todo.batches,
            self._load,
            self._score,
            threads=self._tools.threads,
            on_start=self._begin,
            should_stop=self._has_to_end,
        )
        with closing(outcomes):
            for batch in outcomes:
                self._finish(batch)
        return self._conclude()

    def _has_to_end(self) -> bool:
        asked = self._stop.is_set() or self._lost.is_set()
        return asked or self._hopeless or time.monotonic() > self._until

    def _begin(self, batch: Batch[PendingImage]) -> None:
        ids = [image.image_id for image in batch.keys]
        self._write(lambda c: jobs.begin(c, self._claim, ids, lease_s=self._settings.lease_s))

    def _load(self, image: PendingImage) -> Ready:
        remember = partial(self._seen.__setitem__, image.image_id)
        return self._tools.loader.load(image.uri, on_header=remember)

    def _instance(self, image: PendingImage) -> NewInstance | None:
        seen, tools = self._seen.pop(image.image_id, None), self._tools
        if seen is None:
            return None
        return new_instance(seen, image.uri, tenant=self._claim.tenant, vault=tools.vault)

    def _score(self, ready: Sequence[Ready]) -> list[Result]:
        scorer = self._tools.scorer
        began = time.monotonic()
        results = scorer.score_each(ready)
        self._engine_s = round(time.monotonic() - began, 3)
        scored = sum(isinstance(result, Score) for result in results)
        metrics.count_batch(scorer.engine.name, images=scored, seconds=self._engine_s)
        return results

    def _finish(self, batch: Sequence[Outcome[PendingImage]]) -> None:
        ended: list[Scored | NotScored] = []
        for outcome in batch:
            image, result = outcome.key, outcome.result
            if isinstance(result, Score):
                ended.append(self._build_scored(image, result))
                continue
            self._log_error(image, result)
            if isinstance(result, PermanentError):
                instance = self._instance(image)
                ended.append(not_scored(image.image_id, result, instance=instance))
            else:
                self._waiting[image.image_id] = result
        if ended:
            self._record(ended)
        self._hopeless = not ended
        scored = sum(isinstance(outcome.result, Score) for outcome in batch)
        fields = {"images": len(batch), "scored": scored, "engine_s": self._engine_s}
        self._engine_s = 0.0
        event(log, logging.INFO, "job.batch", **fields)

    def _build_scored(self, image: PendingImage, score: Score) -> Scored:
        tools = self._tools
        return scored(
            image.image_id,
            score,
            scorer=tools.scorer,
            model_id=tools.model_id,
            cam_policy=self._settings.cam_policy,
            instance=self._instance(image),
        )

    def _record(self, outcomes: Sequence[Scored | NotScored]) -> None:
        lease_s = self._settings.lease_s
        try:
            self._ended = self._write(
                lambda c: jobs.record(c, self._claim, outcomes, lease_s=lease_s)
            )
            self._progress = self._progress or bool(outcomes)
            metrics.count_outcomes(outcomes)
        except UnexpectedError as error:
            # SQL refused a value: find out whose it is, and record the other outcomes.
            if len(outcomes) > 1:
                for outcome in outcomes:
                    self._record([outcome])
            elif outcomes and isinstance(outcomes[0], Scored):
                self._record([not_scored(outcomes[0].image_id, error)])
            elif outcomes and outcomes[0].instance is not None:
                self._record([replace(outcomes[0], instance=None)])
            else:
                raise

    def _conclude(self) -> Ending:
        if self._ended:
            return Ending.COMPLETED
        if not self._waiting:
            self._write(lambda c: jobs.release(c, self._claim))
            return Ending.RELEASED
        error = next(reversed(self._waiting.values()))
        since = None if self._progress else self._claim.failing_since
        trouble_s = (datetime.now(UTC) - since).total_seconds() if since else 0.0
        if trouble_s > self._settings.give_up_after_s:
            self._write(lambda c: jobs.quarantine(c, self._claim, error))
            return Ending.QUARANTINED
        deferrals = 0 if self._progress else self._claim.deferrals
        delay_s = _back_off(deferrals, self._settings)
        self._write(
            lambda c: jobs.defer(c, self._claim, error, delay_s=delay_s, images=self._waiting)
        )
        return Ending.DEVICE_LOST if self._device_lost() else Ending.DEFERRED

    def _device_lost(self) -> bool:
        return any(isinstance(error, DeviceLostError) for error in self._waiting.values())

    def _write(self, step: Step[T]) -> T:
        return persist(
            self._tools.database,
            step,
            patience_s=max(0.0, self._until - time.monotonic()),
            stop=self._stop,
        )

    def _log_error(self, image: PendingImage, error: HilumError) -> None:
        # The detail of an unexpected error is its place; that of others may describe the image.
        detail = {"detail": error.detail} if isinstance(error, UnexpectedError) else {}
        event(
            log,
            logging.WARNING,
            "image.not_scored",
            image=image.position,
            code=error.code,
            **detail,
        )


def _exhausted(image: PendingImage, settings: WorkerSettings) -> NotScored:
    return not_scored(
        image.image_id,
        AttemptsExhaustedError(
            f"{image.unreported} workers died while they worked on this image "
            f"(the limit is {settings.max_image_attempts})."
        ),
    )


def _back_off(deferrals: int, settings: WorkerSettings) -> float:
    """Seconds until the next try. They double up to the maximum and are spread by up to a half, so
    that jobs that failed together are not retried together."""
    longest = min(settings.retry_max_s, settings.retry_base_s * 2.0 ** min(deferrals, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
