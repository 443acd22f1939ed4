"""Errors of objects and of the store that holds them."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class InvalidURIError(PermanentError):
    """The address is malformed, has an unsupported scheme, or is not allowed here."""

    code = "storage.invalid_uri"
    next_step = "Use s3://bucket/key, or a local path on the command line."


class ObjectMissingError(PermanentError):
    """The object does not exist."""

    code = "storage.object_missing"
    next_step = "Check bucket and key, and that the upload had finished when the study was sent."


class ObjectChangedError(TransientError):
    """The object was replaced after hilum looked it up and before hilum read it."""

    code = "storage.object_changed"
    next_step = "Nothing to do: the next attempt reads the new object."


class ObjectTooLargeError(PermanentError):
    """The object is larger than HILUM_LIMITS__MAX_OBJECT_BYTES allows."""

    code = "storage.object_too_large"
    next_step = "Raise HILUM_LIMITS__MAX_OBJECT_BYTES if such objects are expected."


class AccessDeniedError(PermanentError):
    """The store accepts the credentials, but denies access to this object."""

    code = "storage.access_denied"
    next_step = "Grant the configured S3 identity read access to this bucket and prefix."


class CredentialsRejectedError(TransientError):
    """The store rejects the configured credentials.

    Transient: the configuration is wrong, not the study, so work waits until it is corrected.
    """

    code = "storage.credentials_rejected"
    next_step = "Correct HILUM_S3__ACCESS_KEY_ID and HILUM_S3__SECRET_ACCESS_KEY. Work is kept."


class StorageUnavailableError(TransientError):
    """The store did not answer, or answered with a server error."""

    code = "storage.unavailable"
    next_step = "Check that the store at HILUM_S3__ENDPOINT_URL is up. Work is kept and retried."


class StoreRightsError(PermanentError):
    """The credentials lack a right that hilum needs."""

    code = "storage.rights"
    next_step = "Grant s3:PutObject, s3:GetObject and s3:DeleteObject in the bucket of the cache."
