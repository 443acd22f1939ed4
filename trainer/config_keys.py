"""Every key of the training configuration with its default and meaning, from the models."""

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
    default: str  # as TOML; empty: the key must be given
    meaning: str


def every() -> list[Key]:
    """All of them, in the order of the file."""
    return list(_keys(TrainConfig, ""))


def markdown() -> str:
    """As the table of docs/use/training.md."""
    rows = [f"| `{key.name}` | {_code(key.default)} | {key.meaning} |" for key in every()]
    return "\n".join(("| key | default | meaning |", "|---|---|---|", *rows))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        section = _section(field)
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # nobody's to choose
        if section is None:
            yield Key(
                name=prefix + name, default=_default(field), meaning=(field.description or "")
            )
        elif name == "stages":
            yield from _keys(section, "[[stages]] ")
        else:
            yield from _keys(section, f"{prefix}{name}.")


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


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def documented(text: str) -> str:
    """``text`` with the table between its two comments as it should be."""
    start = text.index("-->\n", text.index("<!-- keys")) + len("-->\n")
    return text[:start] + markdown() + "\n" + text[text.index("<!-- /keys -->") :]
