"""Write model cards from templates: text in Markdown, with the figures of ``metrics.json``."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined


def write(template: str, **values: Any) -> str:
    """Return the text of a card."""
    environment = Environment(  # noqa: S701 -- Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["f"] = _number
    text = resources.files(__package__).joinpath(template).read_text("utf-8")
    return environment.from_string(text).render(values)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
