"""What a worker is handed with a job, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hilum.db.instances import NewInstance
from hilum.db.results import NewResult
from hilum.db.states import ItemStatus
from hilum.errors import HilumError


@dataclass(frozen=True, kw_only=True)
class PendingImage:
    """An image that still has to be scored."""

    image_id: str
    position: int  # within its study; what logs name it by
    uri: str = field(repr=False)
    unreported: int  # earlier starts after which the worker was never heard of again
    deferred: bool  # it met a transient error before


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job held under a lease."""

    job_id: str
    study_id: str
    tenant: str
    attempt: int  # the fence
    deferrals: int  # transient errors in a row before this claim
    failing_since: datetime | None  # when the first of them was
    pending: tuple[PendingImage, ...]  # by position


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An image ended well."""

    image_id: str
    result: NewResult
    instance: NewInstance | None = None  # what its header says


@dataclass(frozen=True, kw_only=True)
class NotScored:
    """An image ended with an error, for good."""

    image_id: str
    status: ItemStatus  # REFUSED or FAILED
    error: HilumError
    instance: NewInstance | None = None  # what its header says, if it could be read
