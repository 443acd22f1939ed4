"""``hilum settings``: print all settings with their defaults and meanings."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from pydantic import BaseModel, SecretStr

from hilum.settings import Settings


@click.command()
def settings() -> None:
    """Print every setting as a Markdown table: variable, default, meaning."""
    click.echo(table(), nl=False)


def table() -> str:
    """The table that is part of ``docs/operate/configuration.md``."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, default, meaning in _fields(Settings, "HILUM_"):
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.default, BaseModel):
            yield from _fields(type(field.default), f"{variable}__")
            continue
        default = "" if field.default is None else f"`{_plain(field.default)}`"
        yield variable, default, " ".join((field.description or "").split())


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):  # a default is not secret
        return value.get_secret_value()
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)
