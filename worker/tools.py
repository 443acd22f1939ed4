"""The parts that a pool process uses for all its jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum

from hilum import logs
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.db.identity import IdentityVault
from hilum.pipeline.load import Loader
from hilum.pipeline.score import Scorer
from hilum.pipeline.threads import LoadThreads
from hilum.queue import Queue
from hilum.settings import WorkerSettings
from worker.lease import Leases


class Ending(StrEnum):
    """How the work of a process on a job ended."""

    COMPLETED = "completed"
    DEFERRED = "deferred"  # given back after a transient error
    RELEASED = "released"  # given back because this worker stops, or has worked for long enough
    QUARANTINED = "quarantined"
    LEASE_LOST = "lease_lost"


class Pace:
    """How long the engine takes for an image, as measured."""

    def __init__(self) -> None:
        self._image_s = 0.0

    def note(self, image_s: float) -> None:
        """An image took so long."""
        self._image_s = image_s if not self._image_s else 0.8 * self._image_s + 0.2 * image_s

    def images_in(self, seconds: float) -> int:
        """How many images fit in a call of so many seconds; at least one."""
        return max(1, int(min(seconds / self._image_s, 1e6))) if self._image_s else 1_000_000


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The parts that a pool process uses for all its jobs."""

    database: Database
    loader: Loader
    scorer: Scorer
    model_id: int
    threads: LoadThreads  # load images
    leases: Leases
    settings: WorkerSettings
    pace: Pace = field(default_factory=Pace)
    queues: tuple[Queue, ...] = tuple(Queue)
    vault: IdentityVault | None = None  # None: no identity is stored
    # Called whenever the work goes on; a process that calls it no more hangs.
    on_progress: Callable[[], None] = lambda: None


def bound(claim: Claim) -> AbstractContextManager[None]:
    """Log lines of the block name the job and its study."""
    return logs.bind(job=claim.job_id, study=claim.study_id)
