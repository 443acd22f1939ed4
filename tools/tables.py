"""``make tables`` writes the tables of settings and training keys into their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hilum.commands import settings
from trainer import config

DOCS: Final = Path(__file__).parents[1] / "docs"


def training_keys(text: str) -> str:
    """Write the table of keys between its two comments in ``text``, a Markdown page; returns it."""
    start = text.index("-->\n", text.index("<!-- keys")) + len("-->\n")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, default, meaning in config.list_keys():
        rows.append(f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |")
    return text[:start] + "\n".join(rows) + "\n" + text[text.index("<!-- /keys -->") :]


def main() -> None:
    """Write both tables; tests compare them with the code."""
    page = DOCS / "operate/configuration.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text[: text.index("| variable |")] + settings.table(), encoding="utf-8")
    page = DOCS / "use/training.md"
    page.write_text(training_keys(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
