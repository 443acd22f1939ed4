"""Runs the cells of an ablation one after the other, and no cell twice."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from hilum.files import write_atomically
from hilum.packages import labels
from hilum.packages.findings import calibrate
from hilum.packages.manifest import OperatingPoint
from hilum.settings import Settings
from trainer import (
    calibration,
    checkpoint,
    data,
    loop,
    manifest,
    processes,
    splits,
)
from trainer.ablation import plan
from trainer.ablation.plan import AblationConfig, Cell
from trainer.arrays import FloatArray
from trainer.calibration import Rule
from trainer.config import TrainConfig
from trainer.data import SplitFilms
from trainer.errors import CheckpointError, DataError, writing
from trainer.evaluation.scored import Scored
from trainer.loop import Report
from trainer.manifest import Split

MANIFEST: Final = "manifest.csv"
CELLS: Final = "cells"
_FIGURES, _OUTPUTS, _RUN = "cell.json", "test.npz", "run"
_F1: Final = Rule(kind="f1")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished cell: the films it was tested on, and what its model says of them."""

    cell: Cell
    scored: Scored  # the test split, thresholds for F1 from validation
    seconds: float  # of training and evaluation
    revision: str  # of the code that ran it


def run(
    config: AblationConfig,
    out: Path,
    *,
    settings: Settings,
    begun: Callable[[Cell, int, int], None] | None = None,
    report: Report | None = None,
    keep: bool = False,
) -> None:
    """Run every cell that is not finished yet.

    A cell is finished when its figures are written, which happens last. A cell that was killed
    goes on where it was. A cell of another configuration or data-set table is run again.

    Args:
        out: folder of the ablation.
        begun: called before a cell is run, with its number and the number of all cells.
        report: called after every batch.
        keep: keep the checkpoints of finished cells, which the ablation does not need any more.

    Raises:
        DataError, WeightsMissingError, TrainingDivergedError: as in training; finished cells are
            kept.
        OutputWriteError, CheckpointWriteError: the disk is full or refuses; finished cells are
            kept.
    """
    with writing(out):
        (out / CELLS).mkdir(parents=True, exist_ok=True)
    path = data_of(config, out)
    digest = manifest.digest(path)
    todo = list(plan.cells(config))
    for number, cell in enumerate(todo, 1):
        folder = out / CELLS / cell.name
        identity = plan.identity(config, cell, digest)
        if _read_figures(folder, identity) is not None:
            continue
        if begun is not None:
            begun(cell, number, len(todo))
        begin = time.monotonic()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        trained = plan.training_of(config, cell, path)
        found = checkpoint.load(_train(trained, folder / _RUN, settings, report))
        outputs, points = _test(found, settings)
        figures = {
            "identity": identity,
            "cell": dataclasses.asdict(cell),
            "seconds": time.monotonic() - begin,
            "code_revision": found.record.code_revision,
            "history": list(found.record.history),
            "points": {label: point.model_dump() for label, point in points.items()},
        }
        with writing(folder):
            write_atomically(folder / _OUTPUTS, outputs)
            # Last: with its figures a cell is finished.
            write_atomically(folder / _FIGURES, (json.dumps(figures, indent=2) + "\n").encode())
            if not keep:
                shutil.rmtree(folder / _RUN)


def data_of(config: AblationConfig, out: Path) -> Path:
    """The data-set table of the cells: the configuration's, or one with the new split in ``out``.

    Raises:
        DataError: the table cannot be used.
    """
    if config.resplit is None:
        return config.manifest
    schema = labels.schema(config.label_schema)
    records = manifest.read(config.manifest, schema)
    shares = config.resplit
    wanted: dict[Split, float] = {"train": shares.train, "val": shares.val, "test": shares.test}
    patients = [record.patient for record in records]
    strata = [record.targets for record in records]
    split_of = splits.by_patient(patients, strata, wanted, seed=shares.seed)
    here = config.manifest.parent.absolute()
    moved = [
        dataclasses.replace(record, split=split, uri=str(here / record.uri))
        for record, split in zip(records, split_of, strict=True)
    ]
    path = out / MANIFEST
    manifest.write(path, splits.ordered(moved), schema)
    return path


def read_finished(config: AblationConfig, out: Path) -> list[Finished]:
    """The finished cells of ``config`` in ``out``.

    Raises:
        DataError: no cell is finished.
    """
    path = config.manifest if config.resplit is None else out / MANIFEST
    schema = labels.schema(config.label_schema)
    if not path.is_file():
        raise DataError(f"There is no data-set table at {path}.")
    digest = manifest.digest(path)
    test = [record for record in manifest.read(path, schema) if record.split == "test"]
    found = []
    for cell in plan.cells(config):
        folder = out / CELLS / cell.name
        figures = _read_figures(folder, plan.identity(config, cell, digest))
        if figures is None:
            continue
        with np.load(folder / _OUTPUTS, allow_pickle=False) as arrays:
            probability, uris = arrays["probability"], set(arrays["uris"].tolist())
        records = tuple(record for record in test if record.uri in uris)
        points = {
            label: OperatingPoint.model_validate(point)
            for label, point in figures["points"].items()
        }
        scored = Scored(
            schema=schema,
            records=records,
            sizes=np.zeros((len(records), 2), dtype=np.int32),
            targets=np.array([record.targets for record in records], dtype=np.float32),
            probability=probability,
            cam=None,
            input_size=0,
            points=points,
            chosen=True,
        )
        found.append(
            Finished(
                cell=cell,
                scored=scored,
                seconds=figures["seconds"],
                revision=figures["code_revision"],
            )
        )
    if not found:
        raise DataError("No cell of this ablation is finished.", next_step="Run it first.")
    return found


def _train(config: TrainConfig, out: Path, settings: Settings, report: Report | None) -> Path:
    """Go on with the run in ``out``. A run of another configuration or table is removed first."""
    try:
        return loop.train(config, out, settings=settings, report=report, resume=True)
    except CheckpointError:
        with writing(out):
            shutil.rmtree(out)
        return loop.train(config, out, settings=settings, report=report)


def _read_figures(folder: Path, identity: str) -> dict[str, Any] | None:
    """The figures of a finished cell; ``None`` if there are none, or those of another cell."""
    try:
        figures: dict[str, Any] = json.loads((folder / _FIGURES).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return figures if figures.get("identity") == identity else None


def _test(
    found: checkpoint.Checkpoint, settings: Settings
) -> tuple[bytes, dict[str, OperatingPoint]]:
    """The content of ``test.npz``, and the operating points from validation.

    The file holds the calibrated probabilities ``[N, K]`` of the test split, and the addresses of
    its films: a film that could not be read is left out.
    """
    config, schema = found.record.config, found.schema
    films = data.load_configured(config, settings)
    model = found.model.to(processes.scoring_device(config.compute.device))

    def predict(split: SplitFilms) -> FloatArray:
        raw = model.predict(split.images, config.preprocess.size, schema.kind)
        return np.asarray(raw.numpy())

    validation, test = films["val"], films["test"]
    on_validation = predict(validation)
    fitted = calibration.fit(on_validation, validation.targets, schema.kind)
    calibrated = calibrate(on_validation.astype(np.float32), fitted, schema.kind)
    points = calibration.operating_points(schema.labels, validation.targets, calibrated, _F1)
    probability = calibrate(predict(test).astype(np.float32), fitted, schema.kind)
    packed = BytesIO()
    uris = np.array(sorted(record.uri for record in test.records), dtype=np.str_)
    np.savez_compressed(packed, probability=probability, uris=uris)
    return packed.getvalue(), points
