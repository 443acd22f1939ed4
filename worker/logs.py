"""Logs as JSON lines on stderr. No line holds a UID, a name, an address of an object or a value
from SQL: jobs go by their opaque id, images by their position in the study.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

# At DEBUG these print object keys and DICOM values; some warn with values in the text.
_TALKATIVE: Final = ("boto3", "botocore", "s3transfer", "urllib3")
_SILENT: Final = ("pydicom", "py.warnings")


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, event, then the fields of :func:`event`."""

    def format(self, record: logging.LogRecord) -> str:
        """A traceback becomes the exception's type and innermost place: its text may be data."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send all logs of this process through :class:`JsonLines`, from ``level`` on."""
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log the event ``name`` with its fields."""
    logger.log(level, name, extra={"fields": fields})


def _place(traceback: TracebackType | None) -> str:
    place = "?"
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "?")
        place = f"{module}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
