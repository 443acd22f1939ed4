"""What a worker receives with a claimed job, and the outcomes that it records."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hilum.db.instances import NewInstance
from hilum.db.results import NewResult
from hilum.db.states import ItemStatus
from hilum.errors import HilumError
from hilum.queue import Queue


@dataclass(frozen=True, kw_only=True)
class PendingImage:
    """An image that still has to be scored."""

    image_id: str
    position: int  # within its study; logs name the image by it
    uri: str = field(repr=False)
    unreported: int  # earlier starts whose worker died or was killed
    deferred: bool  # it failed with a transient error before


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job held under a lease."""

    job_id: str
    study_id: str
    tenant: str
    attempt: int  # the fence
    deferrals: int  # transient errors in a row before this claim
    failing_since: datetime | None  # when the first of them was
    queue: Queue
    unreported: int  # workers in a row, before this claim, that died while they worked on the job
    created_at: datetime
    objects_due_at: datetime | None  # until then objects may arrive; None: the setting decides
    pending: tuple[PendingImage, ...]  # by position

    @property
    def held(self) -> dict[str, int]:
        """The id of the job with the fence."""
        return {self.job_id: self.attempt}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An image has a result."""

    image_id: str
    result: NewResult
    instance: NewInstance | None = None


@dataclass(frozen=True, kw_only=True)
class NotScored:
    """An image has no result and will not get one from this job."""

    image_id: str
    status: ItemStatus  # REFUSED or FAILED
    error: HilumError
    instance: NewInstance | None = None  # if its header could be read
