"""Runs the cells of an ablation, one after the other, and never one of them twice."""

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
import numpy.typing as npt

from hilum.files import write_atomically
from hilum.packages import labels
from hilum.packages.findings import calibrate
from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import OperatingPoint
from hilum.session import open_local_store
from hilum.settings import Settings
from trainer import (
    calibration,
    checkpoint,
    data,
    loop,
    manifest,
    prediction,
    processes,
    splits,
)
from trainer.ablation import plan
from trainer.ablation.plan import AblationConfig, Cell
from trainer.calibration import Rule
from trainer.config import TrainConfig
from trainer.data import SplitFilms
from trainer.errors import CheckpointError, DataError
from trainer.evaluation.scored import Scored
from trainer.loop import Report
from trainer.manifest import Split
from trainer.outputs import writing

MANIFEST: Final = "manifest.csv"
CELLS: Final = "cells"
_FIGURES, _OUTPUTS, _RUN = "cell.json", "test.npz", "run"
_F1: Final = Rule(kind="f1")

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a cell left: the films it was tested on, and what it says of them."""

    cell: Cell
    scored: Scored  # the test split, thresholds for F1 from validation
    seconds: float  # of training and evaluation
    revision: str  # of the code that ran it
    history: tuple[dict[str, Any], ...]


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

    A cell is finished when its figures are written, which happens last; one that was killed goes
    on where it was. A cell of another configuration or another manifest is run again.

    Args:
        config: what to compare.
        out: folder of the ablation.
        settings: for prepared images and S3.
        begun: called before a cell is run, with its number and how many there are.
        report: called after every batch.
        keep: keep the checkpoints of finished cells, which nothing here needs any more.

    Raises:
        DataError, WeightsMissingError, TrainingDivergedError: as in training; what is finished
            is kept.
        OutputWriteError, CheckpointWriteError: the disk is full or refuses; the same.
    """
    with writing(out):
        (out / CELLS).mkdir(parents=True, exist_ok=True)
    path = data_of(config, out)
    todo = list(plan.cells(config))
    for number, cell in enumerate(todo, 1):
        folder = out / CELLS / cell.name
        trained = plan.training_of(config, cell, path)
        identity = plan.identity(config, cell, manifest.digest(path))
        if _is_finished(folder, identity):
            continue
        if begun is not None:
            begun(cell, number, len(todo))
        begin = time.monotonic()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        best = _train(trained, folder / _RUN, settings, report)
        found = checkpoint.load(best)
        outputs = _outputs(found, trained.preprocess.size, path, settings)
        figures = {
            "identity": identity,
            "cell": dataclasses.asdict(cell),
            "seconds": time.monotonic() - begin,
            "code_revision": found.record.code_revision,
            "history": list(found.record.history),
            "points": {label: point.model_dump() for label, point in outputs.points.items()},
        }
        with writing(folder):
            _write(folder, outputs, figures)
            if not keep:
                shutil.rmtree(folder / _RUN)


def _train(config: TrainConfig, out: Path, settings: Settings, report: Report | None) -> Path:
    """Go on with the run in ``out``; one of another configuration or manifest makes way."""
    try:
        return loop.train(config, out, settings=settings, report=report, resume=True)
    except CheckpointError:
        with writing(out):
            shutil.rmtree(out)
        return loop.train(config, out, settings=settings, report=report)


def data_of(config: AblationConfig, out: Path) -> Path:
    """The manifest that the cells use: the configuration's, or its new split in ``out``.

    Raises:
        DataError: it cannot be used.
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
    order = list(wanted)
    path = out / MANIFEST
    part = path.with_suffix(".new")
    manifest.write(part, sorted(moved, key=lambda r: order.index(r.split)), schema)
    part.replace(path)
    return path


def finished(config: AblationConfig, out: Path) -> list[Finished]:
    """What the finished cells of ``config`` in ``out`` left.

    Raises:
        DataError: no cell is finished.
    """
    path = config.manifest if config.resplit is None else out / MANIFEST
    schema = labels.schema(config.label_schema)
    if not path.is_file():
        raise DataError(f"There is no manifest at {path}.")
    digest = manifest.digest(path)
    test = tuple(r for r in manifest.read(path, schema) if r.split == "test")
    found = []
    for cell in plan.cells(config):
        folder = out / CELLS / cell.name
        identity = plan.identity(config, cell, digest)
        if _is_finished(folder, identity):
            found.append(_read(folder, cell, schema, test))
    if not found:
        raise DataError("No cell of this ablation is finished.", next_step="Run it first.")
    return found


def _is_finished(folder: Path, identity: str) -> bool:
    try:
        written = json.loads((folder / _FIGURES).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(written.get("identity") == identity)


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """Calibrated probabilities of the test split, and thresholds from validation."""

    uris: frozenset[str]  # of the films; one that could not be read is left out
    probability: FloatArray  # [N, K]
    points: dict[str, OperatingPoint]


def _outputs(found: checkpoint.Checkpoint, size: int, path: Path, settings: Settings) -> _Outputs:
    config, schema = found.record.config, found.schema
    prepared = data.load(
        path,
        schema,
        config.preprocess,
        cache_dir=settings.cache_dir / "prepared",
        max_bad_fraction=config.data.max_bad_fraction,
        store=open_local_store(settings),
        limits=settings.limits,
    )

    model = found.model.to(processes.scoring_device(config.compute.device))

    def predict(split: SplitFilms) -> FloatArray:
        raw: FloatArray = prediction.predict(model, split.images, size, schema.kind).numpy()
        return raw

    validation, test = prepared["val"], prepared["test"]
    on_validation = predict(validation)
    fitted = calibration.fit(on_validation, validation.targets, schema.kind)
    calibrated = calibrate(on_validation.astype(np.float32), fitted, schema.kind)
    points = {
        label: calibration.operating_point(validation.targets[:, k], calibrated[:, k], _F1)
        for k, label in enumerate(schema.labels)
    }
    on_test = calibrate(predict(test).astype(np.float32), fitted, schema.kind)
    uris = frozenset(record.uri for record in test.records)
    return _Outputs(uris=uris, probability=on_test, points=points)


def _write(folder: Path, outputs: _Outputs, figures: dict[str, Any]) -> None:
    """The figures go last and vouch for the rest."""
    packed = BytesIO()
    uris = np.array(sorted(outputs.uris), dtype=np.str_)
    np.savez_compressed(packed, probability=outputs.probability, uris=uris)
    write_atomically(folder / _OUTPUTS, packed.getvalue())
    write_atomically(folder / _FIGURES, (json.dumps(figures, indent=2) + "\n").encode())


def _read(
    folder: Path, cell: Cell, schema: LabelSchema, test: tuple[manifest.Record, ...]
) -> Finished:
    figures = json.loads((folder / _FIGURES).read_bytes())
    with np.load(folder / _OUTPUTS, allow_pickle=False) as arrays:
        probability, uris = arrays["probability"], set(arrays["uris"].tolist())
    test = tuple(record for record in test if record.uri in uris)
    return Finished(
        cell=cell,
        scored=Scored(
            schema=schema,
            records=test,
            sizes=np.zeros((len(test), 2), dtype=np.int32),
            targets=np.array([record.targets for record in test], dtype=np.float32),
            probability=probability,
            cam=None,
            input_size=0,
            points={
                label: OperatingPoint.model_validate(point)
                for label, point in figures["points"].items()
            },
            chosen=True,
        ),
        seconds=figures["seconds"],
        revision=figures["code_revision"],
        history=tuple(figures["history"]),
    )
