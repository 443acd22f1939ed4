"""Errors that only the export raises. The tree and its rules are in :mod:`hilum.errors`."""

from __future__ import annotations

from hilum.errors import PermanentError


class PrecisionError(PermanentError):
    """The model cannot be had in the precision asked for."""

    code = "export.precision"
    next_step = "Export with another --precision; fp32 is always possible."


class WriteError(PermanentError):
    """A package could not be written; what was there before is unchanged."""

    code = "export.write"
    next_step = "Free some space or choose another folder, and run the command again."


class OutputsError(PermanentError):
    """Stored outputs cannot be used to calibrate."""

    code = "export.outputs"
    next_step = "Give --outputs with raw outputs and labels of this model (docs/use/packages.md)."


class ExportError(PermanentError):
    """The exported graph does not reproduce the checkpoint."""

    code = "export.parity"
