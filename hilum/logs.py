"""The log of every process: gateway, worker and command line.

A service writes one JSON object a line on stderr: ``time`` (UTC, ISO 8601), ``level``, ``logger``,
``event``, then the fields that :func:`bind` and :func:`add` put on every line about one request or
job, then the fields of the event. A command for people writes plain text.

No line contains a DICOM UID, a patient's name, the address of an object or a value from SQL.
Studies and jobs are named by their opaque ids, images by their position in the study. Libraries
follow no such rule. Their lines below WARNING (Celery and uvicorn: INFO) are dropped at every
level, and the values in the others are left out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from functools import cache, partial
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TextIO, TypeVar

from hilum.errors import HilumError
from hilum.errors.guarding import OUR_PACKAGES, place_of

Style = Literal["json", "text"]
P = ParamSpec("P")
T = TypeVar("T")

# The lowest level that is logged for a library; WARNING for any other.
_FLOORS: Final = {
    **dict.fromkeys(OUR_PACKAGES, logging.NOTSET),
    "celery": logging.INFO,
    "uvicorn": logging.INFO,
    "celery.app.trace": logging.WARNING,  # start and end of each task: job.taken says more
    "celery.worker.strategy": logging.WARNING,
    "pydicom": logging.CRITICAL + 1,  # it quotes values of the data set
    "uvicorn.access": logging.CRITICAL + 1,  # it quotes paths; our own access log does not
}
# Their DEBUG lines are costly to build, and contain addresses, signed requests, SQL parameters.
_VERBOSE: Final = (
    "boto3",
    "botocore",
    "kombu",
    "psycopg",
    "s3transfer",
    "sqlalchemy",
    "urllib3",
)
# In the text of a library without arguments: addresses, long numbers and UIDs, names.
_VALUE: Final = re.compile(r"\S*(?:://|\d[\d.]{5,}|\^)\S*")

_WARNINGS: Final = "py.warnings"
# Celery passes its own sentences as arguments here; no foreign text reaches these loggers.
_SENTENCES: Final = ("celery.worker.consumer.connection", "celery.worker.consumer.consumer")
_context: ContextVar[dict[str, object] | None] = ContextVar("hilum_log_context", default=None)
_json = False


def configure(level: str, *, style: Style) -> None:
    """Write all logs of this process from ``level`` on to stderr, through this module.

    With ``json``, Python's warnings and uncaught exceptions become lines too.
    """
    global _json  # noqa: PLW0603 - a process has one log
    _json = style == "json"
    handler = _Stderr(lambda: sys.__stderr__ if _json else sys.stderr)
    handler.setFormatter(_JsonLine() if _json else _TextLine())
    handler.addFilter(lambda record: record.levelno >= _floor(record.name))
    root = logging.getLogger()
    for old in [h for h in root.handlers if type(h) in (_Stderr, logging.StreamHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    # People see what they must act on, and other events only if they ask for them.
    root.setLevel(
        level
        if _json or level == "DEBUG"
        else max(logging.getLevelNamesMapping()[level], logging.WARNING)
    )
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)
    if _json:
        logging.captureWarnings(True)
        warnings.formatwarning = _format_warning
        sys.excepthook = _uncaught
        threading.excepthook = lambda caught: _uncaught(
            caught.exc_type, caught.exc_value, caught.exc_traceback
        )
        sys.unraisablehook = lambda caught: _uncaught(
            caught.exc_type, caught.exc_value, caught.exc_traceback
        )


def is_json() -> bool:
    """Whether this process writes JSON lines."""
    return _json


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log the event ``name`` with its fields."""
    logger.log(level, name, extra={"fields": fields})


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Put ``fields`` on every line of the block, beside those of the blocks around it."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def add(**fields: object) -> None:
    """Put ``fields`` on every further line of the innermost :func:`bind`, from any of its threads.
    Without one, this does nothing."""
    bound = _context.get()
    if bound is not None:
        bound.update(fields)


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with the fields that are bound here, for another thread."""
    return partial(copy_context().run, function)


class CarryingThreads(ThreadPoolExecutor):
    """Threads whose work has the fields that were bound where it was submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See :class:`ThreadPoolExecutor`."""
        return super().submit(carry(fn), *args, **kwargs)


class _Stderr(logging.Handler):
    """Writes to the present ``sys.stderr``: tests and progress bars replace it."""

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = self._stream()
            if stream is not None:
                stream.write(self.format(record) + "\n")
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody can read it any more


class _Word(str):
    """Has no quotes where a message asks for its representation."""

    __slots__ = ()
    __repr__ = str.__str__


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": _message(record),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        return json.dumps(line, default=str)


class _TextLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        return f"{_message(record)} ({fields})" if fields else _message(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields of the context, then of the event. An exception is its type and place, because its
    text may contain data."""
    found = {**(_context.get() or {}), **getattr(record, "fields", {})}
    if record.exc_info and record.exc_info[0]:
        found["exception"] = record.exc_info[0].__name__
        found["at"] = place_of(record.exc_info[2])
        if isinstance(record.exc_info[1], HilumError):
            found["code"] = record.exc_info[1].code
    return found


def _message(record: logging.LogRecord) -> str:
    """The message; of a library's message the first line, with the values left out."""
    top = record.name.partition(".")[0]
    if top in OUR_PACKAGES or record.name == _WARNINGS:
        return record.getMessage()
    said = str(record.msg).partition("\n")[0]
    if not record.args:
        return _VALUE.sub("…", said)
    args: Any = record.args
    shown = partial(_harmless, sentences=record.name in _SENTENCES)
    try:
        if isinstance(args, Mapping):
            return said % {name: shown(value) for name, value in args.items()}
        return said % tuple(map(shown, args[: len(re.findall(r"%[^%]", said))]))
    except (TypeError, ValueError, KeyError):
        return said


def _harmless(value: object, *, sentences: bool) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if sentences and isinstance(value, str):
        return _Word(_VALUE.sub("…", value.partition("\n")[0]))
    return _Word(type(value).__name__ if isinstance(value, BaseException) else "…")


@cache
def _floor(name: str) -> int:
    while name:
        if name in _FLOORS:
            return _FLOORS[name]
        name = name.rpartition(".")[0]
    return logging.WARNING


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """The type and place of a warning: its text may quote a value."""
    name = filename.replace("\\", "/").partition("site-packages/")[2] or filename.rpartition("/")[2]
    return f"{category.__name__} at {name}:{lineno}"


def _uncaught(
    kind: type[BaseException], value: BaseException | None, traceback: TracebackType | None
) -> None:
    if value is None or issubclass(kind, SystemExit | KeyboardInterrupt):
        return
    log = logging.getLogger(__name__)
    log.critical("process.exception", exc_info=(kind, value, traceback))
