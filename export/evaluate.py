"""What the exported graph is worth: run by the serving engine on held-out films.

Everything here is measured on the file that ships, not on the checkpoint it came from; how is the
business of :mod:`trainer.evaluation`, which `hilum train evaluate` uses as well.
"""

from __future__ import annotations

from typing import Any

from hilum.engines import Engine
from hilum.packages.findings import calibrate
from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import Calibration, OperatingPoint
from trainer.data import SplitFilms
from trainer.evaluation import scorer
from trainer.evaluation.assess import assess
from trainer.evaluation.scored import Scored
from trainer.evaluation.scorer import Run

__all__ = ["Run", "report", "run"]


def run(engine: Engine, split: SplitFilms) -> Run:
    """Run every image of ``split``."""
    return scorer.run(engine, split)


def report(
    found: Run,
    split: SplitFilms,
    schema: LabelSchema,
    calibration: Calibration,
    points: dict[str, OperatingPoint],
) -> dict[str, Any]:
    """The figures of ``metrics.json``, see :func:`trainer.evaluation.assess.assess`.

    ``points`` were chosen on validation.
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
