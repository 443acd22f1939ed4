"""What pydantic refuses, in one line."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError


def problems(error: ValidationError, named: Callable[[list[str]], str] = ".".join) -> str:
    """Each field with what is wrong with it, and never its value, which may be a secret.

    Args:
        error: of a model's validation.
        named: makes a field's name of the parts of its path; an empty name is left out.
    """
    return "; ".join(
        ": ".join(filter(None, (named([str(part) for part in item["loc"]]), item["msg"])))
        for item in error.errors(include_input=False, include_url=False)
    )
