"""Puts the graphs of other precisions into a package, and how far each is off into parity.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from export import parity, precision
from export.errors import PrecisionError
from export.graph import folded, serialise
from export.precision import Made
from export.session import run
from export.writing import write_golden
from hilum.packages.manifest import GRAPH, PARITY, Calibration, OperatingPoint, Variant
from trainer.checkpoint import Checkpoint
from trainer.data import SplitFilms
from trainer.evaluation.scorer import Run, TorchEngine
from trainer.manifest import Split

if TYPE_CHECKING:
    from export.package import Precisions

_PARITY_FILMS: Final = 128
_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of the float32 graph."""

    splits: dict[Split, SplitFilms]
    validation: Run
    test: Run
    calibration: Calibration
    points: Mapping[str, OperatingPoint]


def add(
    folder: Path,
    found: Checkpoint,
    measured: Measured,
    precisions: Precisions,
    *,
    golden_images: npt.NDArray[np.uint8],
) -> tuple[Variant, ...]:
    """Make what ``precisions`` asks for, write graphs, golden files and ``parity.json``.

    Raises:
        PrecisionError: a graph is too far off.
    """
    schema, splits = found.schema, measured.splits
    validation, test = splits["val"], splits["test"]
    films = np.array(test.images[:_PARITY_FILMS])
    exact = run(TorchEngine(found.model, schema.kind), films)
    plain = Run(raw=measured.test.raw[: len(films)], cam=measured.test.cam[: len(films)])
    document: dict[str, Any] = {
        "films": len(films),
        "reference": "PyTorch, float32, CPU",
        "graphs": [
            {
                "target": "any",
                "precision": "fp32",
                "measured_with": "ONNX Runtime",
                "bytes": (folder / GRAPH).stat().st_size,
                **parity.differences(plain, exact),
            }
        ],
    }

    def judge(raw: precision.FloatArray) -> float:
        return _macro_loss(_losses(raw, measured.validation, validation, found, replicates=1))

    graph = serialise(folded((folder / GRAPH).read_bytes())) if precisions.wanted else b""
    added = []
    for made in precision.make(
        graph,
        precisions.wanted,
        films=_calibration_films(splits["train"], precisions.films),
        validation=np.asarray(validation.images),
        judge=judge,
        method=precisions.method,
    ):
        whole = run(made.reference, np.asarray(test.images))
        part = Run(raw=whole.raw[: len(films)], cam=whole.cam[: len(films)])
        entry = {
            **precision.summary(made),
            **parity.differences(part, exact),
            "decisions_changed": parity.decisions_changed(
                whole.raw, measured.test.raw, schema, measured.calibration, {**measured.points}
            ),
            "decisions": int(whole.raw.size),
            "auroc_loss_validation": judge(run(made.reference, np.asarray(validation.images)).raw),
            "auroc_loss_test": _losses(whole.raw, measured.test, test, found, replicates=500),
        }
        _check(made, entry)
        document["graphs"].append(entry)
        added.append(_write(folder, made, golden_images))
    (folder / PARITY).write_text(json.dumps(document, indent=2) + "\n")
    return tuple(added)


def _check(made: Made, entry: dict[str, Any]) -> None:
    """Refuse what breaks the promise of its precision on held-out films."""
    if made.precision == "fp16" and not entry["max_dp"] <= precision.MAX_FP16_DP:
        raise PrecisionError(
            f"In fp16 a probability differs by {entry['max_dp']:.4f} from float32 PyTorch; "
            f"{precision.MAX_FP16_DP} is allowed."
        )
    if not np.isfinite(entry["max_dp"]):
        raise PrecisionError(f"In {made.precision} some output is not a number.")
    losses = entry["auroc_loss_test"]
    limit = precision.MAX_AUROC_LOSS
    if not (loss := _macro_loss(losses)) <= limit:
        raise PrecisionError(
            f"{made.precision} for {made.target} costs {loss:.4f} of macro AUROC on test; {limit} "
            f"is allowed.{made.blamed()}"
        )
    certain = [
        label
        for label, row in losses["labels"].items()
        if row["interval"] is not None and row["interval"][0] > limit
    ]
    if certain:
        raise PrecisionError(
            f"{made.precision} for {made.target} costs more than {limit} of the AUROC of "
            f"{', '.join(certain)} on test, beyond what chance explains.{made.blamed()}"
        )


def _write(folder: Path, made: Made, images: npt.NDArray[np.uint8]) -> Variant:
    stem = f"variants/{made.precision}-{made.target}"
    tolerance, cam_tolerance = precision.TOLERANCES[made.target, made.precision]
    (folder / "variants").mkdir(exist_ok=True)
    (folder / f"{stem}.onnx").write_bytes(made.graph)
    write_golden(folder / f"{stem}.golden.npz", images, made.reference)
    return Variant(
        target=made.target,
        precision=made.precision,
        graph=f"{stem}.onnx",
        golden=f"{stem}.golden.npz",
        tolerance=tolerance,
        cam_tolerance=cam_tolerance,
    )


def _losses(
    raw: precision.FloatArray, exact: Run, split: SplitFilms, found: Checkpoint, *, replicates: int
) -> dict[str, Any]:
    return parity.auroc_loss(
        raw,
        exact.raw,
        split.targets,
        found.schema,
        patients=[record.patient for record in split.records],
        replicates=replicates,
    )


def _macro_loss(losses: dict[str, Any]) -> float:
    """Macro loss; 0 where no label has both classes, so nothing is known."""
    return float(losses["macro"]["loss"] or 0.0)


def _calibration_films(train: SplitFilms, count: int) -> npt.NDArray[np.uint8]:
    """``count`` films of training, drawn once and for all; every patient before any twice."""
    order = np.random.default_rng(_SEED).permutation(len(train))
    seen: set[str] = set()
    first: list[int] = []
    again: list[int] = []
    for n in order:
        patient = train.records[n].patient
        (again if patient in seen else first).append(int(n))
        seen.add(patient)
    return np.array(train.images[sorted((first + again)[:count])])
