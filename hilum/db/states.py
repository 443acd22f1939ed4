"""The states of jobs and items, as they stand in SQL and in the API."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """``queued`` and ``running`` end in one of the other two, once and for good."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"  # every image has ended, well or with its error
    FAILED = "failed"  # given up: quarantined with its last error, images without an end


class ItemStatus(StrEnum):
    """One image within one job."""

    PENDING = "pending"
    SCORED = "scored"
    REFUSED = "refused"  # a permanent error of the image itself
    FAILED = "failed"  # hilum gave up on it


class Event(StrEnum):
    """Why a report is owed."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
