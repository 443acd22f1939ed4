"""Errors of jobs, the database and the broker."""

from __future__ import annotations

from hilum.errors.general import ConfigurationError
from hilum.errors.tree import PermanentError, TransientError


class AttemptsExhaustedError(PermanentError):
    """The job used up its attempts and was quarantined."""

    code = "job.attempts_exhausted"
    next_step = "Read the job's last error, remove its cause, and send the study again."


class DatabaseUnavailableError(TransientError):
    """The SQL database did not answer."""

    code = "db.unavailable"
    next_step = "Check HILUM_DATABASE_URL and the database server. Requests are safe to repeat."


class SchemaOutdatedError(ConfigurationError):
    """The database has an older schema than this version of hilum needs."""

    code = "db.schema_outdated"
    next_step = "Run `hilum db upgrade` with the same HILUM_DATABASE_URL."


class SchemaTooNewError(ConfigurationError):
    """The database has a newer schema, which this version of hilum must not use."""

    code = "db.schema_too_new"
    next_step = "Use the version of hilum that migrated the database, or a newer one."


class IdempotencyKeyReusedError(PermanentError):
    """The Idempotency-Key was used before, with a different request."""

    code = "request.idempotency_key_reused"
    next_step = "Use a new Idempotency-Key for a new request, or repeat the first one unchanged."


class LeaseLostError(TransientError):
    """Another worker has claimed the job. The pending writes of this worker are discarded."""

    code = "job.lease_lost"
    next_step = "Nothing to do: another worker continues the job."


class JobUnknownError(PermanentError):
    """The tenant has no such job."""

    code = "job.unknown"
    next_step = "List the jobs with `hilum jobs list` or GET /v1/jobs."


class JobCancelledError(PermanentError):
    """The job was cancelled before it had scored this image."""

    code = "job.cancelled"
    next_step = "To score the image after all, retry the job or send the study again."


class JobStateError(PermanentError):
    """The state of the job does not allow this."""

    code = "job.wrong_state"
    next_step = "Read the job's state with `hilum jobs show` or GET /v1/jobs/{job_id}."


class NothingToRetryError(PermanentError):
    """No image of the job can be tried again."""

    code = "job.nothing_to_retry"
    next_step = "Images that were refused for their content are tried again only with `refused`."


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs are kept in SQL and published when it answers again."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the broker. Accepted studies are kept in SQL."


class AuditBrokenError(PermanentError):
    """The hash chain of the audit is broken: its rows were changed outside hilum."""

    code = "audit.broken"
    next_step = "Compare the database with its last backup, starting at the row named above."


class UnknownScopeError(PermanentError):
    """The scope of an API key does not exist."""

    code = "auth.unknown_scope"
    next_step = "Use the scopes listed above."
