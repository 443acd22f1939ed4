"""Every key of the training configuration with its default and meaning, read from the models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key."""

    name: str
    default: str  # as TOML; empty: the key is required
    meaning: str


def every() -> list[Key]:
    """All keys, in the order of the file."""
    return list(_keys(TrainConfig, ""))


def update_table(text: str) -> str:
    """Write the table of keys between its two comments in ``text``, a Markdown page; returns it."""
    start = text.index("-->\n", text.index("<!-- keys")) + len("-->\n")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in every():
        default = f"`{key.default}`" if key.default else ""
        rows.append(f"| `{key.name}` | {default} | {key.meaning} |")
    return text[:start] + "\n".join(rows) + "\n" + text[text.index("<!-- /keys -->") :]


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        section = _section(field)
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # there is nothing to choose
        if section is None:
            meaning = " ".join((field.description or "").split())
            yield Key(name=prefix + name, default=_default(field), meaning=meaning)
        else:
            yield from _keys(section, "[[stages]] " if name == "stages" else f"{prefix}{name}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for found in (field.annotation, *get_args(field.annotation)):
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value: Any = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return "none" if value is None else f'"{value}"' if isinstance(value, str) else str(value)
