"""Describe pydantic's validation errors in one line."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError


def problems(error: ValidationError, name: Callable[[list[str]], str] = ".".join) -> str:
    """Each invalid field with its problem. Values are left out, because they may be secrets.

    Args:
        error: what pydantic raised.
        name: makes the name of a field from the parts of its path. An empty name is left out.
    """
    return "; ".join(
        ": ".join(filter(None, (name([str(part) for part in item["loc"]]), item["msg"])))
        for item in error.errors(include_input=False, include_url=False)
    )
