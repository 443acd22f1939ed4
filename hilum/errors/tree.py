"""The root of the error tree. Whether a failure may be retried is a type, not a flag.

Every error carries a stable ``code`` (part of the public contract: JSON, metrics, SQL), a
``detail`` that names the rule broken and what was found, and a ``next_step`` for the reader.
No text here may contain a patient's name, an ID or a UID; *which* object failed is added by
whoever shows the error (the CLI its path, the gateway its image id).
"""

from __future__ import annotations

from typing import ClassVar, TypedDict


class ErrorBody(TypedDict):
    """The public form of an error, the same in JSON results, problem+json and SQL."""

    code: str
    detail: str
    next_step: str
    transient: bool


class HilumError(Exception):
    """Root of everything hilum raises on purpose. Raise a subclass of one of the two below."""

    code: ClassVar[str] = "hilum.error"
    next_step: ClassVar[str] = "Report this with the code above."
    transient: ClassVar[bool] = False

    def __init__(self, detail: str, *, next_step: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self._next_step = next_step or type(self).next_step

    def body(self) -> ErrorBody:
        """The error as its public JSON object."""
        return ErrorBody(
            code=self.code,
            detail=self.detail,
            next_step=self._next_step,
            transient=self.transient,
        )

    def __str__(self) -> str:
        return f"[{self.code}] {self.detail} {self._next_step}"


class PermanentError(HilumError):
    """Trying again with the same input gives the same failure."""


class TransientError(HilumError):
    """The cause may pass; the same work may succeed later."""

    transient = True
