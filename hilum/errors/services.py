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


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs are kept in SQL and published when it answers again."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the broker. Accepted studies are kept in SQL."


class BrokerEvictsError(ConfigurationError):
    """The broker may drop tasks when its memory is full."""

    code = "queue.evicts"
    next_step = "Set `maxmemory-policy noeviction` on the server of HILUM_BROKER_URL."


class ClockSkewedError(ConfigurationError):
    """The clocks of two machines differ by more than leases allow."""

    code = "machine.clock_skewed"
    next_step = "Synchronise the clocks of all machines, for example with chrony."


class DiskFullError(ConfigurationError):
    """A folder that hilum needs cannot be written or has too little room."""

    code = "machine.disk_full"
    next_step = "Make room or mount a larger volume there; HILUM_CACHE_DIR names the cache."


class AuditBrokenError(PermanentError):
    """The hash chain of the audit is broken: its rows were changed outside hilum."""

    code = "audit.broken"
    next_step = "Compare the database with its last backup, starting at the row named above."


class UnknownScopeError(PermanentError):
    """The scope of an API key does not exist."""

    code = "auth.unknown_scope"
    next_step = "Use the scopes listed above."
