"""Objects and the store they are in."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class InvalidURIError(PermanentError):
    """The URI's scheme is not one hilum reads, or the URI is malformed or not allowed here."""

    code = "storage.invalid_uri"
    next_step = "Use s3://bucket/key (or a local path on the command line)."


class ObjectMissingError(PermanentError):
    """The object does not exist."""

    code = "storage.object_missing"
    next_step = "Check the bucket and key, and that the upload finished before the study was sent."


class ObjectChangedError(TransientError):
    """The object was replaced between being looked at and being read."""

    code = "storage.object_changed"
    next_step = "Nothing to do: the new object is read on the next attempt."


class ObjectTooLargeError(PermanentError):
    """The object is larger than hilum is configured to read."""

    code = "storage.object_too_large"
    next_step = "Raise HILUM_LIMITS__MAX_OBJECT_BYTES if such objects are expected."


class AccessDeniedError(PermanentError):
    """The store knows who asks, and refuses this object."""

    code = "storage.access_denied"
    next_step = "Grant the configured S3 identity read access to this bucket and prefix."


class CredentialsRejectedError(TransientError):
    """The store does not accept the configured credentials.

    Transient: it is the deployment that is wrong, not the study; work waits for the operator.
    """

    code = "storage.credentials_rejected"
    next_step = "Correct HILUM_S3__ACCESS_KEY_ID and HILUM_S3__SECRET_ACCESS_KEY; work is kept."


class StorageUnavailableError(TransientError):
    """The store did not answer, or answered with a server error."""

    code = "storage.unavailable"
    next_step = "Check that the store at HILUM_S3__ENDPOINT_URL is up; work is kept and retried."
