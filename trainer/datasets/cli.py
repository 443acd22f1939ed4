"""``hilum manifest``: from a data set's own files to the one table that training reads."""

from __future__ import annotations

import csv
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
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
_SCHEMAS = click.Choice(sorted(labels.SCHEMAS))

_to = click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The data-set table to write: .csv or .parquet.",
)
_seed = click.option("--seed", default=0, show_default=True, help="Of the splits.")


@click.group()
def manifest() -> None:
    """Write the table of a data set that training reads: one row a film, split by patient.

    What is written is shown as a table: images, patients and positives by split.
    docs/use/data-sets.md has an example for each data set.
    """


@manifest.command("chestxray14")
@click.argument("folder", type=_FOLDER)
@_to
@click.option("--val-share", default=0.125, show_default=True, help="Of the train+val list.")
@click.option("--allow-missing", is_flag=True, help="Leave images out that are not there.")
@_seed
def from_chestxray14(
    folder: Path, target: Path, val_share: float, allow_missing: bool, seed: int
) -> None:
    """ChestX-ray14 as the NIH hands it out, unpacked below FOLDER.

    Data_Entry_2017*.csv, train_val_list.txt, test_list.txt and, if it is there, BBox_List_2017.csv
    are looked for in FOLDER; the PNG files anywhere below. The official test list is the test
    split; validation is cut from the other list by patient.
    """
    entry_table = _one(folder, "Data_Entry_2017*.csv")
    found = chestxray14.entries(_rows(entry_table))
    train_val, test = (_lines(_one(folder, f"{n}_list.txt")) for n in ("train_val", "test"))
    for note in chestxray14.differences(entry_table.read_bytes(), found, train_val, test):
        click.echo(note, err=True)
    where = {path.name: path for path in sorted(folder.rglob("*.png"))}
    missing = sum(entry.image not in where for entry in found)
    if missing:
        if not allow_missing:
            raise DataError(
                f"{missing} of {len(found)} images are not below {folder}.",
                next_step="Complete the download, or leave them out with --allow-missing.",
            )
        click.echo(f"{missing} images are not there and are left out.", err=True)
        found = [entry for entry in found if entry.image in where]
    boxes = sorted(folder.rglob("BBox_List_2017*.csv"))
    base = target.parent.resolve()
    made = chestxray14.records(
        found,
        uri_of=lambda name: os.path.relpath(where[name].resolve(), base),
        train_val=train_val,
        test=test,
        boxed=chestxray14.boxes(_rows(boxes[0])) if boxes else {},
        val_share=val_share,
        seed=seed,
    )
    _write(target, made, CHESTXRAY14)


@manifest.command("chexpert")
@click.argument("folder", type=_FOLDER)
@_to
@click.option(
    "--uncertain",
    default="ignore",
    show_default=True,
    type=click.Choice(chexpert.POLICIES),
    help="What -1 becomes in training: not known, 1, 0, or 0.7.",
)
@click.option(
    "--uncertain-label",
    multiple=True,
    metavar="LABEL=POLICY",
    help="Another policy for one label. Repeatable.",
)
@click.option("--unmentioned", default="zeros", type=click.Choice(["zeros", "ignore"]))
@click.option("--laterals", is_flag=True, help="Keep lateral films.")
@click.option("--val-share", default=0.05, show_default=True, help="Of train.csv.")
@_seed
def from_chexpert(*, folder: Path, target: Path, uncertain: Any, **options: Any) -> None:
    """CheXpert: FOLDER holds train.csv, valid.csv and the films.

    valid.csv, labelled by radiologists, is the test split; validation is cut from train.csv by
    patient, where uncertain labels count as not known.
    """
    policy = dict.fromkeys(CHEXPERT.labels, uncertain) | _pairs(options["uncertain_label"])
    if set(policy.values()) - set(chexpert.POLICIES):
        raise click.BadParameter(f"a policy is one of {', '.join(chexpert.POLICIES)}")
    made = chexpert.records(
        chexpert.entries(_rows(_one(folder, "train.csv"))),
        chexpert.entries(_rows(_one(folder, "valid.csv"))),
        uncertain=policy,
        unmentioned=options["unmentioned"],
        laterals=options["laterals"],
        val_share=options["val_share"],
        seed=options["seed"],
    )
    # The table's paths begin with the folder's own name, whatever it is called here.
    base = target.parent.resolve()

    def address(path: str) -> str:
        return os.path.relpath(folder.resolve() / path.partition("/")[2], base)

    _write(target, _moved(made, address), CHEXPERT)


@manifest.command("folders")
@click.argument("roots", nargs=-1, required=True, type=_FOLDER)
@_to
@click.option("--schema", "schema_id", default="covid-tb-pneumonia-v1", type=_SCHEMAS)
@click.option("--class", "classes", multiple=True, metavar="FOLDER=LABEL", help="Repeatable.")
@click.option("--skip", multiple=True, metavar="FOLDER", help="Leave a class out. Repeatable.")
@click.option(
    "--patient",
    metavar="REGEX",
    help=r"Its first group, in the file's name, is the patient, as in 'person(\d+)_'.",
)
@_seed
def from_folders(
    *, roots: tuple[Path, ...], target: Path, schema_id: str, patient: str | None, **options: Any
) -> None:
    """A folder for each class: ROOT/CLASS/…, or ROOT/train/CLASS/… and so on.

    Several ROOTS are several sites: where each source has classes of its own, a model learns the
    source, and the figures by site show it.
    """
    schema = labels.schema(schema_id)
    try:
        pattern = re.compile(patient) if patient else None
    except re.error as error:
        raise click.BadParameter(f"--patient is no regular expression: {error}") from None
    if pattern is not None and not pattern.groups:
        raise click.BadParameter("--patient needs a group: the part that is the patient")
    films = folders.find(
        roots, schema, classes=_pairs(options["classes"]), skip=options["skip"], patient=pattern
    )
    unknown = sum(film.patient is None for film in films)
    if unknown:
        click.echo(
            f"The patient of {unknown} of {len(films)} films is not known: each counts as one of "
            "its own, and films of one person may be in several splits.",
            err=True,
        )
    base = target.parent.resolve()
    _write(target, folders.records(films, schema, base=base, seed=options["seed"]), schema)


@manifest.command("dicom")
@click.argument("prefix")
@click.argument("labels_csv", metavar="LABELS.CSV", type=_FILE)
@_to
@click.option("--schema", "schema_id", required=True, type=_SCHEMAS)
@click.option("--site", default="", help="Where the table does not say.")
@click.option("--allow-missing", is_flag=True, help="Leave rows out that have no film.")
@click.option(
    "--pseudonym-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the secret that patients' names are made with; made if it is not there. "
    "Default: beside the data-set table.",
)
@_seed
def from_dicom(
    *, prefix: str, labels_csv: Path, target: Path, schema_id: str, **options: Any
) -> None:
    """DICOM films below PREFIX, a folder or s3://bucket/prefix, and a table of labels.

    LABELS.CSV has a column `file` (from PREFIX on) or `sop_instance_uid`, one for each label of
    the schema, and if you like patient, view, sex, age, site, split. Patient IDs do not reach the
    data-set table: only pseudonyms, made with a key that stays on this machine.
    """
    schema = labels.schema(schema_id)
    configured = settings.load()
    store = open_local_store(configured)
    address = prefix if "://" in prefix else str(Path(prefix).resolve())
    name = dicom_table.pseudonym(_key(options["pseudonym_key"] or target.with_suffix(".key")))
    with progress_bar() as bar:
        task = bar.add_task("headers", total=None)
        films, others = dicom_table.scan(
            address, store, name, progress=lambda done: bar.update(task, completed=done)
        )
    if others:
        click.echo(f"{others} objects are no DICOM and are left out.", err=True)
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
    base = target.parent.resolve()
    _write(
        target,
        _moved(made, lambda uri: uri if "://" in uri else os.path.relpath(uri, base)),
        schema,
    )


@manifest.command("show")
@click.argument("path", type=_FILE)
@click.option("--schema", "schema_id", required=True, type=_SCHEMAS)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it again, as .csv or .parquet, into the same folder.",
)
def show(path: Path, schema_id: str, target: Path | None) -> None:
    """Check a data-set table, and show what is in it, by split."""
    schema = labels.schema(schema_id)
    records = table.read(path, schema)
    if target is None:
        _show(records, schema)
        return
    if target.parent.resolve() != path.parent.resolve():
        raise click.BadParameter("addresses are relative to the table: keep it in its folder")
    _write(target, records, schema)


def _write(target: Path, records: Sequence[Record], schema: LabelSchema) -> None:
    table.write(target, records, schema)
    _show(records, schema)
    click.echo(target)


def show_manifest(path: Path, schema: LabelSchema) -> None:
    """What is in the data-set table at ``path``, on stderr."""
    _show(table.read(path, schema), schema)


def _show(records: Sequence[Record], schema: LabelSchema) -> None:
    console = Console(stderr=True)
    console.print(summary.table(records, schema))
    for note in summary.notes(records, schema):
        console.print(note, highlight=False)


def _moved(records: Sequence[Record], address: Callable[[str], str]) -> list[Record]:

    return [replace(record, uri=address(record.uri)) for record in records]


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
            next_step="See docs/use/data-sets.md for the files this data set comes with.",
        )
    return found[0]


def _pairs(given: Sequence[str]) -> dict[str, Any]:
    pairs = {}
    for text in given:
        left, equals, right = text.partition("=")
        if not equals or not left or not right:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        pairs[left] = right
    return pairs


def _key(path: Path) -> bytes:
    """The secret in ``path``, made if there is none; readable by its owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) < 16:
            raise DataError(f"{path.name} is too short for a key.") from None
        return found
    except OSError as error:
        raise DataError(f"{path.name} cannot be written ({error.strerror}).") from None
    with os.fdopen(descriptor, "wb") as file:
        secret = secrets.token_bytes(32)
        file.write(secret)
    return secret
