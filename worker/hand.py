"""The jobs that a process has in hand, and which of their images it starts next. No SQL, no clock.

First of a job come images that were never in flight when a worker died; among these, images with an
earlier transient error come last. Then come the *suspects*, which were in flight when a worker
died, those with the fewest deaths first. While a suspect is in flight, nothing else is: if a worker
dies again, the image is known.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hilum.db.choosing import Room
from hilum.db.claims import Claim, PendingImage
from hilum.errors import HilumError
from hilum.queue import Queue
from hilum.tracing import Open

URGENCY = {queue: number for number, queue in enumerate(Queue)}


@dataclass(kw_only=True, eq=False)
class JobInHand:
    """A claimed job."""

    claim: Claim
    calm: deque[PendingImage]
    suspects: deque[PendingImage]
    exhausted: tuple[PendingImage, ...]  # too many workers died over these: not tried again
    in_flight: set[str] = field(default_factory=set)
    failed: dict[str, HilumError] = field(default_factory=dict)  # with transient errors, by image
    failures_in_a_row: int = 0
    refunded: list[str] = field(default_factory=list)  # begun, and given back unfinished
    begun: bool = False
    progress: bool = False  # an outcome was recorded
    span: Open = field(default_factory=lambda: Open(None))  # from its claim to its ending

    @property
    def urgency(self) -> int:
        """0 for the most urgent priority."""
        return URGENCY[self.claim.queue]

    @property
    def waiting(self) -> int:
        """The number of images that can still be started."""
        return len(self.calm) + len(self.suspects)

    @classmethod
    def of(cls, claim: Claim, *, max_image_attempts: int) -> JobInHand:
        """As it is claimed."""
        tried = [image for image in claim.pending if image.unreported < max_image_attempts]
        calm = sorted((i for i in tried if i.unreported == 0), key=lambda i: i.deferred)
        suspects = sorted(
            (i for i in tried if i.unreported > 0), key=lambda i: (i.unreported, i.deferred)
        )
        exhausted = tuple(i for i in claim.pending if i.unreported >= max_image_attempts)
        return cls(claim=claim, calm=deque(calm), suspects=deque(suspects), exhausted=exhausted)

    def stop(self) -> None:
        """Start no more of its images."""
        self.calm.clear()
        self.suspects.clear()


@dataclass(frozen=True, kw_only=True)
class Start:
    """An image to start."""

    job: JobInHand = field(repr=False)
    image: PendingImage


class Hand:
    """Jobs in hand, in the order in which they were claimed.

    Args:
        max_jobs: of one priority.
        max_images: in flight; more urgent ones come on top of less urgent ones.
    """

    def __init__(self, *, max_jobs: int, max_images: int) -> None:
        self.jobs: dict[str, JobInHand] = {}
        self._max_jobs = max_jobs
        self._max_images = max_images
        self._alone = False  # a suspect is in flight

    def rooms(self, queues: Iterable[Queue]) -> list[Room]:
        """How much may be claimed of each priority. Less urgent jobs take no room from more urgent
        ones."""
        rooms = []
        for queue in queues:
            mine = [job for job in self.jobs.values() if job.urgency <= URGENCY[queue]]
            images = self._max_images - sum(job.waiting for job in mine)
            count = self._max_jobs - len(mine)
            if images > 0 and count > 0:
                rooms.append(Room(queue=queue, images=images, jobs=count))
        return rooms

    def take_starts(self) -> list[Start]:
        """The images to start now, the most urgent first, and within a priority those of the tenant
        with the fewest in flight. The caller starts them."""
        starts: list[Start] = []
        while not self._alone and (start := self._next()) is not None:
            self._alone = start.image.unreported > 0
            queue = start.job.suspects if self._alone else start.job.calm
            queue.popleft()
            start.job.in_flight.add(start.image.image_id)
            starts.append(start)
        return starts

    def end(self, job: JobInHand, image_id: str) -> None:
        """The image is in flight no more."""
        job.in_flight.discard(image_id)
        if not self._in_flight(len(URGENCY)):
            self._alone = False

    def drop(self, job_ids: Iterable[str]) -> None:
        """These jobs are in hand no more."""
        for job_id in job_ids:
            self.jobs.pop(job_id, None)
        if not self._in_flight(len(URGENCY)):
            self._alone = False

    def idle(self) -> Sequence[JobInHand]:
        """Jobs with nothing in flight and nothing to start."""
        return [job for job in self.jobs.values() if not (job.waiting or job.in_flight)]

    def _next(self) -> Start | None:
        busy = Counter[str]()
        for job in self.jobs.values():
            busy[job.claim.tenant] += len(job.in_flight)
        able = [job for job in self.jobs.values() if job.waiting]
        for job in sorted(able, key=lambda job: (job.urgency, busy[job.claim.tenant])):
            if job.calm:
                if self._in_flight(job.urgency) < self._max_images:
                    return Start(job=job, image=job.calm[0])
                continue
            # Wait until nothing is in flight, and start nothing meanwhile.
            return None if self._in_flight(len(URGENCY)) else Start(job=job, image=job.suspects[0])
        return None

    def _in_flight(self, urgency: int) -> int:
        """Images in flight that are at least as urgent."""
        return sum(len(job.in_flight) for job in self.jobs.values() if job.urgency <= urgency)
