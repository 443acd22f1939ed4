"""``make tables`` writes the tables of settings and training keys into their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hilum.commands import settings
from trainer import config_keys

DOCS: Final = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Write both tables; tests compare them with the code."""
    page = DOCS / "operate/configuration.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text[: text.index("| variable |")] + settings.table(), encoding="utf-8")
    page = DOCS / "use/training.md"
    page.write_text(config_keys.update_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
