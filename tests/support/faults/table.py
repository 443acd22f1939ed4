"""The table of delivery guarantees in the docs: ``python -m support.faults.table FOLDER`` writes it
from what the processes of the suite have left in that folder."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/operate/running.md"
BEGIN, END = "<!-- faults: written by make faults -->", "<!-- /faults -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """How the system stood one scenario."""

    line: int  # of the suite, for the order
    scenario: str
    database: str
    studies: int
    images: int
    seconds: float
    next_s: float
    in_hand_s: float
    broken: str  # rules that did not hold; empty: all did


def keep(row: Row, folder: Path) -> None:
    """Leave the row for :func:`main`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{row.line}-{abs(hash(row.scenario))}.json").write_text(json.dumps(asdict(row)))


def main() -> None:
    """Write the table. Fails if any rule did not hold."""
    found = [Row(**json.loads(path.read_text())) for path in Path(sys.argv[1]).glob("*.json")]
    rows = sorted(found, key=lambda row: (row.line, row.scenario))
    write(rows)
    if not rows or any(row.broken for row in rows):
        sys.exit("not every scenario held")


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the table between its markers."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{_table(rows)}\n{END}{tail}", encoding="utf-8")


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"{datetime.now(UTC):%d %B %Y}, commit {_commit()}, {os.cpu_count()} cores with a load of "
        f"{os.getloadavg()[2]:.0f} (processes then start slowly, which the times include), "
        f"{platform.machine()}, Python {platform.python_version()}. One worker with one process "
        "unless the scenario says otherwise; leases of 5 s; one film a study, three in each tenth.",
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


if __name__ == "__main__":
    main()
