"""A split of a data set with the outputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import OperatingPoint
from trainer import metrics
from trainer.arrays import BoolArray, FloatArray
from trainer.manifest import Record


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Films, their labels and what a model says about them."""

    schema: LabelSchema
    records: tuple[Record, ...]
    sizes: npt.NDArray[np.integer]  # [N, 2]: height and width of the stored films
    targets: FloatArray  # [N, K]; any value but 0 and 1 is unknown
    probability: FloatArray  # [N, K], calibrated
    cam: FloatArray | None  # [N, K, h, w], Grad-CAM grids; None: no maps
    input_size: int  # side of the model input, pixels
    points: Mapping[str, OperatingPoint]  # of every label
    chosen: bool = False  # whether the points were chosen on validation for this evaluation

    def __len__(self) -> int:
        return len(self.records)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each film."""
        return tuple(record.patient for record in self.records)

    @property
    def thresholds(self) -> FloatArray:
        """The threshold of each label, ``[K]``."""
        return np.array([self.points[label].threshold for label in self.schema.labels])

    @property
    def undefined(self) -> BoolArray:
        """Which labels have no operating point, ``[K]``.

        Validation had one class only, or could not satisfy the rule. Such a label has the threshold
        1, at which nothing is called: what follows from it is no measurement. A point that was not
        chosen on validation has no sensitivity either, but is an operating point.
        """
        points = [self.points[label] for label in self.schema.labels]
        return np.array([self.chosen and point.sensitivity is None for point in points])

    @property
    def findings(self) -> tuple[int, ...]:
        """Columns of the labels that can be findings."""
        return tuple(self.schema.index(label) for label in self.schema.findings)

    def macro(
        self, labels: Mapping[str, Mapping[str, float | None]], names: Iterable[str]
    ) -> dict[str, float | None]:
        """The mean of each figure in ``names`` over the findings for which it is defined."""
        of = [labels[label] for label in self.schema.findings]
        return {name: metrics.mean_defined([row[name] for row in of]) for name in names}

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
