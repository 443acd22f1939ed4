"""Errors of jobs, the database and the broker."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class AttemptsExhaustedError(PermanentError):
    """The job used up its attempts and was quarantined."""

    code = "job.attempts_exhausted"
    next_step = "Read the job's last error, remove its cause, and send the study again."


class DatabaseUnavailableError(TransientError):
    """The SQL database did not answer."""

    code = "db.unavailable"
    next_step = "Check HILUM_DATABASE_URL and the database server. Requests are safe to repeat."


class IdempotencyKeyReusedError(PermanentError):
    """The Idempotency-Key was used before, with a different request."""

    code = "request.idempotency_key_reused"
    next_step = "Use a new Idempotency-Key for a new request, or repeat the first one unchanged."


class LeaseLostError(TransientError):
    """Another worker has claimed the job. The pending writes of this worker are discarded."""

    code = "job.lease_lost"
    next_step = "Nothing to do: another worker continues the job."


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs are kept in SQL and published when it answers again."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the broker. Accepted studies are kept in SQL."
