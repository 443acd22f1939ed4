"""Errors of configuration, and failures of hilum itself."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class ConfigurationError(PermanentError):
    """A setting is missing or contradicts another."""

    code = "config.invalid"
    next_step = "Correct the setting named above (see docs/operate/configuration.md)."


class MissingExtraError(PermanentError):
    """The dependencies of this part of hilum are not installed."""

    code = "config.missing_extra"
    next_step = "Install the extra named above."


class UnexpectedError(PermanentError):
    """Internal error on this image. Other images of the study are unaffected."""

    code = "internal.unexpected"
    next_step = "Report this to hilum's maintainers, with the line of code named above."


class OutOfMemoryError(TransientError):
    """The machine ran out of memory while it processed this image."""

    code = "internal.out_of_memory"
    next_step = "Give the process more memory, or lower HILUM_LIMITS__MAX_PIXELS."


class DecodersUnavailableError(TransientError):
    """No decode process could be started. The image may be fine."""

    code = "internal.decoders_unavailable"
    next_step = "Check the machine's free memory and process limit. The work will be retried."
