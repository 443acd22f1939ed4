"""Options that choose rows by text and time, for commands that read or change SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click


def check_text(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """A callback of an option: at most 100 printable characters."""
    if text is not None and not (text.isprintable() and len(text) <= 100):
        raise click.BadParameter("it has at most 100 printable characters")
    return text


def check_texts(
    ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """:func:`check_text` for an argument that may be repeated."""
    for text in texts:
        check_text(ctx, parameter, text)
    return texts


def text_option(*names: str, help: str) -> Callable[..., Any]:
    """An option with a text."""
    return click.option(*names, callback=check_text, help=help)


def time_option(*names: str, help: str) -> Callable[..., Any]:
    """An option with a moment: ISO 8601, in UTC unless it has a time zone."""
    return click.option(*names, callback=_read_time, help=help)


def _read_time(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("write it as 2026-11-29 or 2026-11-29T14:00+01:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
