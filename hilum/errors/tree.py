"""The root of the error tree. Whether a failure may be retried is a type, not a flag.

Every error carries a stable ``code`` (part of the public contract: JSON, metrics, SQL), a
``detail`` that says which rule was broken and what was found, and a ``next_step`` for the reader.
No text here may contain a patient's name, an ID or a UID. The code that shows the error adds which
object failed: the CLI its path, the gateway its image id.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypedDict, TypeVar, cast


class ErrorBody(TypedDict):
    """The public form of an error, the same in JSON results, problem+json and SQL."""

    code: str
    detail: str
    next_step: str
    transient: bool


class HilumError(Exception):
    """Base class of all errors of hilum. Raise a subclass of one of the two classes below."""

    code: ClassVar[str] = "hilum.error"
    next_step: ClassVar[str] = "Report this with the code above."
    transient: ClassVar[bool] = False

    def __init__(self, detail: str, *, next_step: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self._next_step = next_step or type(self).next_step

    def body(self) -> ErrorBody:
        """Return the error as its public JSON object."""
        return ErrorBody(
            code=self.code,
            detail=self.detail,
            next_step=self._next_step,
            transient=self.transient,
        )

    def __str__(self) -> str:
        return f"[{self.code}] {self.detail} {self._next_step}"


class PermanentError(HilumError):
    """The same work would fail again, so it is not retried."""


class TransientError(HilumError):
    """The same work may succeed later, so it is retried."""

    transient = True


E = TypeVar("E", bound=HilumError)


def open_texts(module: str) -> Callable[[str, type[E]], type[E]]:
    """A function that defines an error of ``module`` from its name and its base.

    Its code, its title (the first line about it) and its next step, if that is not the base's, are
    in ``texts.toml`` beside the module, under its name.
    """
    file = Path(str(sys.modules[module].__file__)).with_name("texts.toml")
    texts = tomllib.loads(file.read_text("utf-8"))

    def define(name: str, base: type[E]) -> type[E]:
        values = texts[name]
        own = {key: value for key, value in values.items() if key != "title"}
        made = type(name, (base,), {"__module__": module, "__doc__": values["title"], **own})
        return cast(type[E], made)

    return define
