"""The table of values in the chart's README, from the ``## @param`` comments of values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from tools.chart.schema import CHART

README: Final = CHART / "README.md"
VALUES: Final = CHART / "values.yaml"
_TAG: Final = re.compile(r"^\s*## @(section|param|extra|skip) (\S+)(?: (.*))?$")
_START: Final = "## Parameters\n"


def documented() -> set[str]:
    """The paths that have a description, or are left out on purpose."""
    return {path for kind, path, _ in _tags() if kind in {"param", "skip"}}


def leaves(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all values that are no map, or an empty one."""
    if not isinstance(node, dict) or not node:
        yield path
        return
    for name, value in node.items():
        yield from leaves(value, f"{path}.{name}" if path else name)


def updated(readme: str) -> str:
    """The README with the table as values.yaml has it now."""
    return readme[: readme.index(_START) + len(_START)] + "\n" + _table()


def _tags() -> Iterator[tuple[str, str, str]]:
    for line in VALUES.read_text(encoding="utf-8").splitlines():
        found = _TAG.match(line)
        if found:
            yield found[1], found[2], found[3] or ""


def _table() -> str:
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    sections: list[tuple[str, list[tuple[str, str, str]]]] = []
    for kind, path, text in _tags():
        if kind == "section":
            sections.append((f"{path} {text}".strip(), []))
        elif kind in {"param", "extra"}:
            modifier, description = _split(text)
            shown = _default(values, path, modifier) if kind == "param" else ""
            sections[-1][1].append((f"`{path}`", description, shown))
    parts = []
    for title, rows in sections:
        if rows:
            head = ("Name", "Description", "Value")
            widths = [max(len(row[n]) for row in [head, *rows]) for n in range(3)]
            lines = [_row(head, widths), _row(tuple("-" * w for w in widths), widths)]
            lines += [_row(row, widths) for row in rows]
            parts.append(f"### {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _split(text: str) -> tuple[str, str]:
    found = re.match(r"\[(array|object|string|nullable)?,? ?(default: [^\]]+)?\] (.*)", text)
    return (found[2] or found[1], found[3]) if found else ("", text)


def _default(values: Any, path: str, modifier: str) -> str:
    if modifier.startswith("default: "):
        return f"`{modifier.removeprefix('default: ')}`"
    for name in path.split("."):
        values = values[name]
    if values == "":
        return '`""`'
    return f"`{values if isinstance(values, str) else json.dumps(values, separators=(',', ':'))}`"


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    return (
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        + " |"
    )
