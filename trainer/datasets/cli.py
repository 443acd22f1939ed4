"""``hilum manifest`` makes a data-set table from the files of a data set."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hilum import settings
from hilum.packages import labels
from hilum.packages.labels import CHESTXRAY14, CHEXPERT, LabelSchema
from hilum.session import open_local_store
from trainer import manifest as table
from trainer.datasets import chestxray14, chexpert, dicom_table, folders, summary
from trainer.errors import DataError
from trainer.manifest import Record
from trainer.progress import progress_bar

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

_to = click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The data-set table to write: .csv or .parquet.",
)
_schema = partial(
    click.option,
    "--schema",
    "schema_id",
    type=click.Choice(sorted(labels.SCHEMAS)),
    help="Label schema of the table.",
)
_val_share = partial(
    click.option,
    "--val-share",
    show_default=True,
    help="Share of the training list that becomes the validation split.",
)
_seed = click.option("--seed", default=0, show_default=True, help="Seed of the random splits.")


@click.group()
def manifest() -> None:
    """Write the data-set table that training reads: one row a film, split by patient.

    Each command then shows the images, patients and positives of every split.
    docs/use/data-sets.md has an example for each data set.
    """


@manifest.command("chestxray14")
@click.argument("folder", type=_FOLDER)
@_to
@_val_share(default=0.125)
@click.option("--allow-missing", is_flag=True, help="Leave out images whose file is missing.")
@_seed
def from_chestxray14(
    folder: Path, target: Path, val_share: float, allow_missing: bool, seed: int
) -> None:
    """Read ChestX-ray14 as the NIH publishes it, unpacked below FOLDER.

    FOLDER holds Data_Entry_2017*.csv, train_val_list.txt, test_list.txt and, if you have it,
    BBox_List_2017.csv. The PNG files may lie anywhere below. The official test list is the test
    split. The validation split is cut from the other list by patient.
    """
    entry_table = _one(folder, "Data_Entry_2017*.csv")
    found = chestxray14.entries(_rows(entry_table))
    train_val, test = (_lines(_one(folder, f"{n}_list.txt")) for n in ("train_val", "test"))
    for note in chestxray14.differences(entry_table.read_bytes(), found, train_val, test):
        click.echo(note, err=True)
    where = {path.name: path for path in sorted(folder.rglob("*.png"))}
    missing = sum(record.uri not in where for record in found)
    if missing:
        if not allow_missing:
            raise DataError(
                f"{missing} of {len(found)} images are not below {folder}.",
                next_step="Complete the download, or leave them out with --allow-missing.",
            )
        click.echo(f"{missing} images are missing and are left out.", err=True)
        found = [record for record in found if record.uri in where]
    boxes = sorted(folder.rglob("BBox_List_2017*.csv"))
    made = chestxray14.records(
        found,
        train_val=train_val,
        test=test,
        boxed=chestxray14.boxes(_rows(boxes[0])) if boxes else {},
        val_share=val_share,
        seed=seed,
    )
    _write(target, made, CHESTXRAY14, address=lambda name: where[name].resolve())


@manifest.command("chexpert")
@click.argument("folder", type=_FOLDER)
@_to
@click.option(
    "--uncertain",
    default="ignore",
    show_default=True,
    type=click.Choice(chexpert.POLICIES),
    help="What -1 becomes in the training split: unknown, 1, 0, or 0.7.",
)
@click.option(
    "--uncertain-label",
    multiple=True,
    metavar="LABEL=POLICY",
    help="A different policy for one label. Repeatable.",
)
@click.option(
    "--unmentioned",
    default="zeros",
    show_default=True,
    type=click.Choice(["zeros", "ignore"]),
    help="What an empty label becomes: 0, or unknown.",
)
@click.option("--laterals", is_flag=True, help="Keep lateral films.")
@_val_share(default=0.05)
@_seed
def from_chexpert(
    *, folder: Path, target: Path, uncertain: Any, uncertain_label: tuple[str, ...], **options: Any
) -> None:
    """Read CheXpert: FOLDER holds train.csv, valid.csv and the films.

    valid.csv, which radiologists labelled, is the test split. The validation split is cut from
    train.csv by patient. Uncertain labels are unknown in both.
    """
    policy = dict.fromkeys(CHEXPERT.labels, uncertain) | _pairs(uncertain_label)
    if set(policy.values()) - set(chexpert.POLICIES):
        raise click.BadParameter(f"a policy must be one of {', '.join(chexpert.POLICIES)}")
    train, valid = (chexpert.entries(_rows(_one(folder, f"{n}.csv"))) for n in ("train", "valid"))
    made = chexpert.records(train, valid, uncertain=policy, **options)
    # A path in the table begins with the folder's published name, which may differ from FOLDER's.
    root = folder.resolve()
    _write(target, made, CHEXPERT, address=lambda path: root / path.partition("/")[2])


@manifest.command("folders")
@click.argument("roots", nargs=-1, required=True, type=_FOLDER)
@_to
@_schema(default="covid-tb-pneumonia-v1", show_default=True)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="FOLDER=LABEL",
    help="The label of a class folder. Repeatable.",
)
@click.option("--skip", multiple=True, metavar="FOLDER", help="Leave out a class. Repeatable.")
@click.option(
    "--patient",
    metavar="REGEX",
    help=r"Its first group, matched in the file's name, is the patient, as in 'person(\d+)_'.",
)
@_seed
def from_folders(
    *, roots: tuple[Path, ...], target: Path, schema_id: str, patient: str | None, **options: Any
) -> None:
    """Read a folder for each class: ROOT/CLASS/…, or ROOT/train/CLASS/… and so on.

    Each of several ROOTS is a site. If each source has classes of its own, a model may learn the
    source instead; the figures by site show it.
    """
    schema = labels.schema(schema_id)
    try:
        pattern = re.compile(patient) if patient else None
    except re.error as error:
        raise click.BadParameter(f"--patient is not a regular expression: {error}") from None
    if pattern is not None and not pattern.groups:
        raise click.BadParameter("--patient needs a group for the part that names the patient")
    films = folders.find(
        roots, schema, classes=_pairs(options["classes"]), skip=options["skip"], patient=pattern
    )
    unknown = sum(film.patient is None for film in films)
    if unknown:
        click.echo(
            f"The patient of {unknown} of {len(films)} films is unknown. Each counts as a patient "
            "of its own, so films of one person may be in several splits.",
            err=True,
        )
    base = target.parent.resolve()
    _write(target, folders.records(films, schema, base=base, seed=options["seed"]), schema)


@manifest.command("dicom")
@click.argument("prefix")
@click.argument("labels_csv", metavar="LABELS.CSV", type=_FILE)
@_to
@_schema(required=True)
@click.option("--site", default="", help="Site of films for which the table names none.")
@click.option("--allow-missing", is_flag=True, help="Leave out rows that have no film.")
@click.option(
    "--pseudonym-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the secret key from which pseudonyms of patients are derived. It is created "
    "if it does not exist.  [default: beside the data-set table]",
)
@_seed
def from_dicom(
    *, prefix: str, labels_csv: Path, target: Path, schema_id: str, **options: Any
) -> None:
    """Read DICOM films below PREFIX, a folder or s3://bucket/prefix, and a table of labels.

    LABELS.CSV has a column `file` (relative to PREFIX) or `sop_instance_uid`, one column for each
    label of the schema, and optionally patient, view, sex, age, site and split. The data-set table
    holds no Patient IDs, only pseudonyms, which are made with a key that stays on this machine.
    """
    schema = labels.schema(schema_id)
    configured = settings.load()
    store = open_local_store(configured)
    address = prefix if "://" in prefix else str(Path(prefix).resolve())
    name = dicom_table.pseudonym(
        dicom_table.read_key(options["pseudonym_key"] or target.with_suffix(".key"))
    )
    with progress_bar() as bar:
        task = bar.add_task("headers", total=None)
        films, others = dicom_table.scan(
            address, store, name, progress=lambda done: bar.update(task, completed=done)
        )
    if others:
        click.echo(f"{others} objects are not DICOM and are left out.", err=True)
    made, missing = dicom_table.records(
        films,
        _rows(labels_csv),
        schema,
        name=name,
        site=options["site"],
        allow_missing=options["allow_missing"],
        seed=options["seed"],
    )
    if missing:
        click.echo(f"{missing} rows have no film and are left out.", err=True)
    _write(target, made, schema, address=lambda uri: uri if "://" in uri else Path(uri))


@manifest.command("show")
@click.argument("path", type=_FILE)
@_schema(required=True)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table again, as .csv or .parquet, into the same folder.",
)
def show(path: Path, schema_id: str, target: Path | None) -> None:
    """Check a data-set table and show its content by split."""
    schema = labels.schema(schema_id)
    records = table.read(path, schema)
    if target is None:
        _show(records, schema)
        return
    if target.parent.resolve() != path.parent.resolve():
        raise click.BadParameter(
            "addresses are relative to the table, so it must stay in its folder"
        )
    _write(target, records, schema)


def _write(
    target: Path,
    records: Sequence[Record],
    schema: LabelSchema,
    *,
    address: Callable[[str], Path | str] = str,
) -> None:
    """Write and show the table. ``address`` gives the place of a film, a path or an address; paths
    are written relative to the table."""
    base = target.parent.resolve()

    def moved(record: Record) -> Record:
        place = address(record.uri)
        return replace(
            record, uri=place if isinstance(place, str) else os.path.relpath(place, base)
        )

    records = [moved(record) for record in records]
    table.write(target, records, schema)
    _show(records, schema)
    click.echo(target)


def show_manifest(path: Path, schema: LabelSchema) -> None:
    """Show the content of the data-set table at ``path`` on stderr."""
    _show(table.read(path, schema), schema)


def _show(records: Sequence[Record], schema: LabelSchema) -> None:
    console = Console(stderr=True)
    console.print(summary.table(records, schema))
    for note in summary.notes(records, schema):
        console.print(note, highlight=False)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read as CSV ({type(error).__name__}).") from None
    return [{key: value or "" for key, value in row.items() if key is not None} for row in rows]


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern)) or sorted(folder.rglob(pattern))
    if not found:
        raise DataError(
            f"There is no {pattern} below {folder}.",
            next_step="docs/use/data-sets.md lists the files of this data set.",
        )
    return found[0]


def _pairs(given: Sequence[str]) -> dict[str, Any]:
    pairs = {}
    for text in given:
        left, equals, right = text.partition("=")
        if not equals or not left or not right:
            raise click.BadParameter(f"{text!r} must have the form NAME=VALUE")
        pairs[left] = right
    return pairs
