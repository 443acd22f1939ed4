"""Evaluate the exported graph on held-out films, with the serving engine.

The figures are measured with the exported file, not with the checkpoint. They are computed by
:mod:`trainer.evaluation`, as those of `hilum train evaluate`.
"""

from __future__ import annotations

from typing import Any

from hilum.engines import Engine
from hilum.packages.findings import calibrate
from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import Calibration, OperatingPoint
from trainer.data import Prepared
from trainer.evaluation import scorer
from trainer.evaluation.assess import assess
from trainer.evaluation.scored import Scored
from trainer.evaluation.scorer import Run

__all__ = ["Run", "report", "run"]


def run(engine: Engine, split: Prepared) -> Run:
    """Run every image of ``split``."""
    return scorer.run(engine, split)


def report(
    found: Run,
    split: Prepared,
    schema: LabelSchema,
    calibration: Calibration,
    points: dict[str, OperatingPoint],
) -> dict[str, Any]:
    """The figures of ``metrics.json``, see :func:`trainer.evaluation.assess.assess`.

    ``points`` must have been chosen on the validation split.
    """
    return assess(
        Scored(
            schema=schema,
            records=split.records,
            sizes=split.sizes,
            targets=split.targets,
            probability=calibrate(found.raw, calibration, schema.kind),
            cam=found.cam,
            input_size=int(split.images.shape[-1]),
            points=points,
            chosen=True,
        )
    )
