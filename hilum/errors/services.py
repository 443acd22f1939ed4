"""Jobs, the database, the broker."""

from __future__ import annotations

from hilum.errors.general import ConfigurationError
from hilum.errors.tree import PermanentError, TransientError


class AttemptsExhaustedError(PermanentError):
    """A job or image failed as often as it is allowed to; it is quarantined, not lost."""

    code = "job.attempts_exhausted"
    next_step = "Look at the last error of the job; send the study again once the cause is gone."


class DatabaseUnavailableError(TransientError):
    """The SQL database did not answer."""

    code = "db.unavailable"
    next_step = "Check HILUM_DATABASE_URL and the server; requests are safe to repeat."


class SchemaOutdatedError(ConfigurationError):
    """The database has an older schema than this version of hilum needs."""

    code = "db.schema_outdated"
    next_step = "Run `hilum db upgrade` with the same HILUM_DATABASE_URL."


class SchemaTooNewError(ConfigurationError):
    """The database has a newer schema, which this version of hilum must not use."""

    code = "db.schema_too_new"
    next_step = "Use the version of hilum that migrated the database, or a newer one."


class IdempotencyKeyReusedError(PermanentError):
    """The same Idempotency-Key came with another request."""

    code = "request.idempotency_key_reused"
    next_step = "Use a new Idempotency-Key for a new request, or repeat the first one unchanged."


class LeaseLostError(TransientError):
    """Another worker holds the job by now; what this one still has to say is void."""

    code = "job.lease_lost"
    next_step = "Nothing to do: the job goes on elsewhere."


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs stay in SQL and are published when it is back."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the server; accepted studies are kept in SQL."


class AuditBrokenError(PermanentError):
    """The audit's chain of hashes does not hold: somebody changed the database by hand."""

    code = "audit.broken"
    next_step = "Compare the database with its last backup, from the row named above on."


class UnknownScopeError(PermanentError):
    """An API key was to be made with a scope that does not exist."""

    code = "auth.unknown_scope"
    next_step = "Use scopes of the list above."
