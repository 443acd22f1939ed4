"""The states of jobs and items, as SQL and the API spell them."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """A ``queued`` or ``running`` job ends once, as one of the other two."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"  # every image has ended, scored or with its error
    FAILED = "failed"  # quarantined with its last error, or cancelled (`job.cancelled`)


class ItemStatus(StrEnum):
    """One image within one job."""

    PENDING = "pending"
    SCORED = "scored"
    REFUSED = "refused"  # a permanent error of the image
    FAILED = "failed"  # an error of the store, the engine or hilum


class Event(StrEnum):
    """What happened to a job."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
