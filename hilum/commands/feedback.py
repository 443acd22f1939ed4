"""``hilum feedback``: export what readers said."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from hilum.commands.choosing import text_option, time_option
from hilum.commands.operating import opened
from hilum.db import feedback as store
from hilum.errors import ConfigurationError
from hilum.files import write_atomically
from hilum.packages import labels

F = TypeVar("F", bound=Callable[..., Any])
_TO = click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path, dir_okay=False), help="CSV."
)
_COLUMNS: Final = (
    *("id", "created_at", "tenant", "study_id", "image_id", "result_id", "model"),
    *("label", "verdict", "found", "present", "in_force", "key_id", "reader"),
)


def _filtered(command: F) -> F:
    options = (
        text_option("--tenant", help="Of this tenant."),
        text_option("--model", help="On results of the package of this digest (sha256:…)."),
        text_option("--label", help="On this label."),
        time_option("--since", help="Given then or later; UTC without a zone."),
        time_option("--until", help="Given before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def feedback() -> None:
    """Export what readers said of findings, over the API's scope `feedback`."""


@feedback.command()
@_TO
@_filtered
@click.option("--all", "everything", is_flag=True, help="Also rows that a newer one replaces.")
def export(target: Path, everything: bool, **filters: Any) -> None:
    """Write one row an opinion, by time. `found` is what the model said at its operating point,
    `present` what the reader says. No row has a UID or an address."""
    with opened() as database, database.read() as connection:
        found = store.iterate(connection, in_force=not everything, **filters)
        rows = [[_cell(getattr(row, name)) for name in _COLUMNS] for row in found]
    _write(target, _COLUMNS, rows)


@feedback.command(name="labels")
@_TO
@click.option(
    "--prefix", required=True, help="The films' prefix, as `hilum manifest dicom` gets it."
)
@click.option("--schema", "schema_id", required=True, type=click.Choice(sorted(labels.SCHEMAS)))
@_filtered
def labels_(target: Path, prefix: str, schema_id: str, **filters: Any) -> None:
    """Write the table of labels that `hilum manifest dicom` reads: one row a film.

    A cell is the share of the film's readers who say that the finding is present, so 1 or 0 where
    they are of one mind, and empty where nobody spoke of it. Films elsewhere are left out.
    """
    schema, root = labels.schema(schema_id), prefix.rstrip("/") + "/"
    said: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    with opened() as database, database.read() as connection:
        for row in store.iterate(connection, **filters):
            if row.uri.startswith(root) and row.label in schema.labels:
                said[row.uri.removeprefix(root)][row.label].append(row.present)
    rows = [
        [
            file,
            *(
                f"{sum(of[label]) / len(of[label]):g}" if label in of else ""
                for label in schema.labels
            ),
        ]
        for file, of in sorted(said.items())
    ]
    _write(target, ("file", *schema.labels), rows)


def _write(target: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow(columns)
    count = 0
    for row in rows:
        out.writerow(row)
        count += 1
    try:
        write_atomically(target, text.getvalue().encode())
    except OSError as error:
        raise ConfigurationError(
            f"{target.name} cannot be written ({error.strerror}).",
            next_step="Choose a folder that exists and has room.",
        ) from None
    click.echo(f"{count} rows in {target}", err=True)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return value.isoformat() if isinstance(value, datetime) else "" if value is None else str(value)
