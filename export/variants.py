"""Add variants to a package, and write how far each graph differs to ``parity.json``."""

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
from export.graph import fold, serialise
from export.precision import Made
from export.writing import write_golden
from hilum.packages.manifest import GRAPH, PARITY, Calibration, OperatingPoint, Variant
from trainer.checkpoint import Checkpoint
from trainer.data import SplitFilms
from trainer.evaluation.scorer import Run, TorchEngine, run
from trainer.manifest import Split

if TYPE_CHECKING:
    from export.package import Precisions

_PARITY_FILMS: Final = 128
_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The outputs, calibration and operating points of the float32 graph."""

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
    """Make the variants of ``precisions``, and write graphs, golden outputs and ``parity.json``.

    Raises:
        PrecisionError: a variant loses too much.
    """
    schema, splits = found.schema, measured.splits
    validation, test = splits["val"], splits["test"]
    films = np.array(test.images[:_PARITY_FILMS])
    exact = run(TorchEngine(found.model, schema.kind), films)
    document: dict[str, Any] = {
        "films": len(films),
        "reference": "PyTorch, float32, CPU",
        "graphs": [
            {
                "target": "any",
                "precision": "fp32",
                "measured_with": "ONNX Runtime",
                "bytes": (folder / GRAPH).stat().st_size,
                **parity.differences(measured.test.first(len(films)), exact),
            }
        ],
    }

    def judge(raw: precision.FloatArray) -> float:
        exact = measured.validation.raw
        return _macro_loss(parity.auroc_loss(raw, exact, validation, schema, replicates=1))

    graph = serialise(fold((folder / GRAPH).read_bytes())) if precisions.wanted else b""
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
        entry = {
            "target": made.target,
            "precision": made.precision,
            "measured_with": made.how,
            "bytes": len(made.graph),
            "layers_kept_in_float32": list(made.kept),
            **parity.differences(whole.first(len(films)), exact),
            "decisions_changed": parity.decisions_changed(
                whole.raw, measured.test.raw, schema, measured.calibration, {**measured.points}
            ),
            "decisions": int(whole.raw.size),
            "auroc_loss_validation": judge(run(made.reference, np.asarray(validation.images)).raw),
            "auroc_loss_test": parity.auroc_loss(whole.raw, measured.test.raw, test, schema),
        }
        _check(made, entry)
        document["graphs"].append(entry)
        added.append(_write(folder, made, golden_images))
    (folder / PARITY).write_text(json.dumps(document, indent=2) + "\n")
    return tuple(added)


def _check(made: Made, entry: dict[str, Any]) -> None:
    """Refuse a variant that differs or loses too much on the test split."""
    if made.precision == "fp16" and not entry["max_dp"] <= precision.MAX_FP16_DP:
        raise PrecisionError(
            f"In fp16 a raw output differs by {entry['max_dp']:.4f} from float32 PyTorch; "
            f"the limit is {precision.MAX_FP16_DP}."
        )
    if not np.isfinite(entry["max_dp"]):
        raise PrecisionError(f"In {made.precision} an output is not a finite number.")
    losses = entry["auroc_loss_test"]
    limit = precision.MAX_AUROC_LOSS
    if not (loss := _macro_loss(losses)) <= limit:
        raise PrecisionError(
            f"{made.precision} for {made.target} loses {loss:.4f} of macro AUROC on test; the "
            f"limit is {limit}.{made.harmful_layers()}"
        )
    certain = [
        label
        for label, row in losses["labels"].items()
        if row["interval"] is not None and row["interval"][0] > limit
    ]
    if certain:
        raise PrecisionError(
            f"{made.precision} for {made.target} loses more than {limit} AUROC for "
            f"{', '.join(certain)} on test (95 % interval).{made.harmful_layers()}"
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


def _macro_loss(losses: dict[str, Any]) -> float:
    """The loss of macro AUROC, or 0 if it is unknown because no label has both classes."""
    return float(losses["macro"]["loss"] or 0.0)


def _calibration_films(train: SplitFilms, count: int) -> npt.NDArray[np.uint8]:
    """Draw ``count`` training films with a fixed seed, one per patient before any second film."""
    order = np.random.default_rng(_SEED).permutation(len(train))
    seen: set[str] = set()
    first: list[int] = []
    again: list[int] = []
    for n in order:
        patient = train.records[n].patient
        (again if patient in seen else first).append(int(n))
        seen.add(patient)
    return np.array(train.images[sorted((first + again)[:count])])
