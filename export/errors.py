"""Errors that only ``export`` raises. :mod:`hilum.errors` has the tree and its rules."""

from __future__ import annotations

from hilum.errors import PermanentError


class PrecisionError(PermanentError):
    """The model cannot be exported in this precision, or loses too much in it."""

    code = "export.precision"
    next_step = "Export with another --precision. fp32 is always possible."


class WriteError(PermanentError):
    """The package cannot be written. The previous content of its folder is unchanged."""

    code = "export.write"
    next_step = "Free some space or choose another folder, and run the command again."


class OutputsError(PermanentError):
    """The stored raw outputs cannot be used for calibration."""

    code = "export.outputs"
    next_step = "Give --outputs with raw outputs and labels of this model (docs/use/packages.md)."


class ExportError(PermanentError):
    """The exported graph does not reproduce the checkpoint."""

    code = "export.parity"
