"""Intervals by the bootstrap (Efron 1979) over patients: films of one patient are related."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from trainer.arrays import Float32Array, FloatArray

Interval = tuple[float, float]

LEVEL: Final = 0.95
# An interval from fewer patients would say nothing, so there is none.
LEAST_PATIENTS: Final = 5
_CELLS: Final = 2**20  # values in a block of weights: fits the cache, and is large enough for NumPy


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How to resample. The same seed always draws the same patients."""

    replicates: int = 1000
    seed: int = 0

    def weights(self, patients: Sequence[str]) -> Iterator[Float32Array]:
        """Blocks of ``b`` replicates, ``[N, b]``: how often each of the ``N`` films is drawn.

        ``patients`` names the patient of each film.
        """
        names, patient = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
        rng = np.random.default_rng(self.seed)
        block = max(1, _CELLS // max(1, len(patient)))
        for start in range(0, self.replicates, block):
            size = min(block, self.replicates - start)
            drawn = rng.integers(len(names), size=(size, len(names)))
            offset = np.arange(size)[:, None] * len(names)
            counts = np.bincount((drawn + offset).ravel(), minlength=size * len(names))
            by_patient = counts.reshape(size, len(names)).astype(np.float32)
            yield np.ascontiguousarray(by_patient.T)[patient]

    def samples(
        self, patients: Sequence[str], statistic: Callable[[Float32Array], FloatArray]
    ) -> FloatArray:
        """``statistic`` of every replicate, ``[replicates, M]``.

        ``statistic`` turns weights ``[N, b]`` into ``[b, M]``, with NaN where it is not defined.
        """
        return np.concatenate([statistic(weights) for weights in self.weights(patients)])


def interval(samples: FloatArray) -> Interval | None:
    """The percentile interval of ``samples`` ``[B]`` at :data:`LEVEL`.

    Replicates in which the figure is not defined do not count; ``None`` if they are more than half.
    """
    defined = samples[~np.isnan(samples)]
    if not len(defined) or len(defined) < len(samples) / 2:
        return None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def enough_patients(patients: Sequence[str], target: FloatArray) -> bool:
    """Whether both classes come from at least :data:`LEAST_PATIENTS` patients."""
    names = np.asarray(patients, dtype=np.str_)
    return all(len(set(names[target == value])) >= LEAST_PATIENTS for value in (0, 1))
