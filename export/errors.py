"""Errors that only the export raises. The tree and its rules are in :mod:`hilum.errors`."""

from __future__ import annotations

from hilum.errors import PermanentError


class PrecisionError(PermanentError):
    """The model cannot be had in the precision asked for."""

    code = "export.precision"
    next_step = "Export with another --precision; fp32 is always possible."
