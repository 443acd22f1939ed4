"""What becomes of an image, and of a job that has nothing more to start."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from hilum.db import jobs
from hilum.db.claims import Claim, NotScored, PendingImage, Scored
from hilum.db.instances import NewInstance
from hilum.db.patience import Step
from hilum.errors import (
    AttemptsExhaustedError,
    DeviceLostError,
    HilumError,
    ObjectAwaitedError,
    ObjectMissingError,
    PermanentError,
    UnexpectedError,
)
from hilum.logs import event
from hilum.pipeline.execute import Result
from hilum.pipeline.load import Seen
from hilum.pipeline.stages import Score
from hilum.settings import WorkerSettings
from worker.hand import JobInHand
from worker.instances import new_instance
from worker.outcomes import not_scored, scored
from worker.tools import Ending, Tools, bound

log = logging.getLogger(__name__)


class Judge:
    """Turns the results of a process's images into what SQL keeps of them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._settings = tools.settings
        self.seen: dict[str, Seen] = {}  # by image: what was read of its header
        self.device_lost = False

    def sort(
        self, job: JobInHand, results: Sequence[tuple[PendingImage, Result]]
    ) -> list[Scored | NotScored]:
        """What can be recorded of one job's images. Transient errors are kept with the job."""
        ended: list[Scored | NotScored] = []
        for image, found in results:
            result = self._await(job, found)
            if isinstance(result, Score):
                ended.append(self._build_scored(job.claim, image, result))
                job.failures_in_a_row = 0
                continue
            with bound(job.claim):
                _log_error(image, result)
            if isinstance(result, PermanentError):
                instance = self._instance(job.claim, image)
                ended.append(not_scored(image.image_id, result, instance=instance))
                job.failures_in_a_row = 0
                continue
            self.seen.pop(image.image_id, None)
            job.failed[image.image_id] = result
            if isinstance(result, DeviceLostError):
                self.device_lost = True
            if not isinstance(result, ObjectAwaitedError):
                job.failures_in_a_row += 1
        if job.failures_in_a_row >= self._settings.batch_size:  # the store is unavailable
            job.stop()
        return ended

    def _await(self, job: JobInHand, result: Result) -> Result:
        """An object that does not exist may still arrive."""
        if not isinstance(result, ObjectMissingError):
            return result
        due_at = _objects_due_at(job.claim, self._settings)
        if datetime.now(UTC) >= due_at:
            return result
        return ObjectAwaitedError("The object does not exist yet.")

    def _build_scored(self, claim: Claim, image: PendingImage, score: Score) -> Scored:
        tools = self._tools
        return scored(
            image.image_id,
            score,
            scorer=tools.scorer,
            model_id=tools.model_id,
            cam_policy=self._settings.cam_policy,
            instance=self._instance(claim, image),
        )

    def _instance(self, claim: Claim, image: PendingImage) -> NewInstance | None:
        seen, tools = self.seen.pop(image.image_id, None), self._tools
        if seen is None:
            return None
        return new_instance(seen, image.uri, tenant=claim.tenant, vault=tools.vault)

    def last_step(self, job: JobInHand) -> tuple[Ending, Step[None]]:
        """How a job ends here that has nothing more to start, and what writes it."""
        claim, settings = job.claim, self._settings
        if not job.failed:
            return Ending.RELEASED, partial(jobs.release, claim=claim, refunded=job.refunded)
        error = next(reversed(job.failed.values()))
        awaited = all(isinstance(each, ObjectAwaitedError) for each in job.failed.values())
        since = None if job.progress else claim.failing_since
        trouble_s = (datetime.now(UTC) - since).total_seconds() if since else 0.0
        if trouble_s > settings.give_up_after_s and not awaited:
            return Ending.QUARANTINED, partial(jobs.quarantine, claim=claim, error=error)
        delay_s = _back_off(0 if job.progress else claim.deferrals, settings)
        if awaited:
            left = _objects_due_at(claim, settings) - datetime.now(UTC)
            delay_s = min(delay_s, max(0.0, left.total_seconds()))
        return Ending.DEFERRED, partial(
            jobs.defer,
            claim=claim,
            error=error,
            delay_s=delay_s,
            images=job.failed,
            refunded=job.refunded,
        )


def exhausted(image: PendingImage, settings: WorkerSettings) -> NotScored:
    """The outcome of an image over which too many workers died."""
    return not_scored(
        image.image_id,
        AttemptsExhaustedError(
            f"{image.unreported} workers died while they worked on this image "
            f"(the limit is {settings.max_image_attempts})."
        ),
    )


def _objects_due_at(claim: Claim, settings: WorkerSettings) -> datetime:
    return claim.objects_due_at or claim.created_at + timedelta(seconds=settings.object_wait_s)


def _log_error(image: PendingImage, error: HilumError) -> None:
    # The detail of an unexpected error is its place; that of others may describe the image.
    detail: Mapping[str, object] = (
        {"detail": error.detail} if isinstance(error, UnexpectedError) else {}
    )
    fields = {"image": image.position, "code": error.code, **detail}
    event(log, logging.WARNING, "image.not_scored", **fields)


def _back_off(deferrals: int, settings: WorkerSettings) -> float:
    """Seconds until the next try. They double up to the maximum and are spread by up to a half, so
    that jobs that failed together are not retried together."""
    longest = min(settings.retry_max_s, settings.retry_base_s * 2.0 ** min(deferrals, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
