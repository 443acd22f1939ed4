"""Errors that only ``export`` raises. :mod:`hilum.errors` has the tree and its rules."""

from __future__ import annotations

from hilum.errors import PermanentError, open_texts

define = open_texts(__name__)
PrecisionError = define("PrecisionError", PermanentError)
WriteError = define("WriteError", PermanentError)
OutputsError = define("OutputsError", PermanentError)
ExportError = define("ExportError", PermanentError)
