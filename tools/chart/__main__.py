"""``python -m tools.chart`` writes values.schema.json and the table in the README of the chart.

The table has the form of readme-generator-for-helm, which gives the same from the same comments.
"""

from __future__ import annotations

from tools.chart import schema, table


def main() -> None:
    """Write both; tests compare them with the code."""
    schema.FILE.write_text(schema.text(), encoding="utf-8")
    table.README.write_text(table.updated(table.README.read_text(encoding="utf-8")), "utf-8")


if __name__ == "__main__":
    main()
