"""Wrong use, and failures of hilum itself."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class ConfigurationError(PermanentError):
    """A setting is missing or contradicts another."""

    code = "config.invalid"
    next_step = "Correct the setting named above (see docs/operate/configuration.md)."


class MissingExtraError(PermanentError):
    """A part of hilum was asked for whose dependencies are not installed."""

    code = "config.missing_extra"
    next_step = "Install the extra named above."


class UnexpectedError(PermanentError):
    """A mistake in hilum met one image; the others are not touched by it."""

    code = "internal.unexpected"
    next_step = "Report this to hilum's maintainers with the place named above."


class OutOfMemoryError(TransientError):
    """The machine had no memory left for one image."""

    code = "internal.out_of_memory"
    next_step = "Give the process more memory, or lower HILUM_LIMITS__MAX_PIXELS."


class DecodersUnavailableError(TransientError):
    """No decode process could be started; nothing is said about the image."""

    code = "internal.decoders_unavailable"
    next_step = "Check that the machine has memory and process slots left; the work is retried."
