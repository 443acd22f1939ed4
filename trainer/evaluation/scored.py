"""A split of a data set with what a model says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import OperatingPoint
from trainer.manifest import Record

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Films, what is true of them and what a model says."""

    schema: LabelSchema
    records: tuple[Record, ...]
    sizes: npt.NDArray[np.integer]  # [N, 2]: height and width of the stored films
    targets: FloatArray  # [N, K]; a label that is neither 0 nor 1 is not known
    probability: FloatArray  # [N, K], calibrated
    cam: FloatArray | None  # [N, K, h, w], Grad-CAM grids, where there are any
    input_size: int  # side of the model's input, pixels
    points: Mapping[str, OperatingPoint]  # of every label, from validation
    chosen: bool = False  # the points were, on validation; not fixed, or as a package has them

    def __len__(self) -> int:
        return len(self.records)

    @property
    def patients(self) -> tuple[str, ...]:
        """Of each film."""
        return tuple(record.patient for record in self.records)

    @property
    def thresholds(self) -> FloatArray:
        """Of each label, ``[K]``."""
        return np.array([self.points[label].threshold for label in self.schema.labels])

    @property
    def undefined(self) -> npt.NDArray[np.bool_]:
        """Labels without an operating point, ``[K]``: validation had one class only, or nothing
        there reached what was asked for. They serve with the threshold 1, which calls nothing;
        that is no measurement. A point that was not chosen on validation has no sensitivity
        either, and is one all the same.
        """
        points = [self.points[label] for label in self.schema.labels]
        return np.array([self.chosen and point.sensitivity is None for point in points])

    @property
    def findings(self) -> tuple[int, ...]:
        """Columns of the labels that can be findings."""
        return tuple(self.schema.index(label) for label in self.schema.findings)

    def only(self, rows: npt.NDArray[np.intp]) -> Scored:
        """The films ``rows``."""
        return replace(
            self,
            records=tuple(self.records[n] for n in rows),
            sizes=self.sizes[rows],
            targets=self.targets[rows],
            probability=self.probability[rows],
            cam=None if self.cam is None else self.cam[rows],
        )
