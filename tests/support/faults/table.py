"""The table of delivery guarantees in the docs, as the suite writes it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/operate/running.md"
BEGIN, END = "<!-- faults: written by make faults -->", "<!-- /faults -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """How the system stood one scenario."""

    scenario: str
    database: str
    studies: int
    images: int
    seconds: float
    next_s: float
    in_hand_s: float
    broken: str  # rules that did not hold; empty: all did


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the table between its markers."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{_table(rows)}\n{END}{tail}", encoding="utf-8")


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"{datetime.now(UTC):%d %B %Y}, commit {_commit()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}; one worker of one process unless "
        "the scenario says otherwise, leases of 5 s, one film in most studies and three in each tenth.",
        "",
        "| fault | SQL | studies | images | all ended, once, in | next outcome after | "
        "studies in hand ended after |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        held = f"{row.seconds:.0f} s" if not row.broken else f"**no**: {row.broken}"
        lines.append(
            f"| {row.scenario} | {row.database} | {row.studies} | {row.images} | {held} "
            f"| {row.next_s:.1f} s | {row.in_hand_s:.1f} s |"
        )
    return "\n".join(lines)


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
