"""How rare each label is, and the weights in the loss that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hilum.packages.labels import LabelSchema
from trainer.arrays import Float32Array
from trainer.config import LossConfig
from trainer.errors import DataError

_FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Counts in the training split. An uncertain label counts as its value."""

    positives: _FloatArray  # [K]
    known: _FloatArray  # [K]

    @property
    def prevalence(self) -> Tensor:
        """The share of known films that have each label, float32 ``[K]``."""
        return torch.from_numpy(self.positives / self.known).float()


def count(targets: Float32Array, schema: LabelSchema) -> Balance:
    """Count ``targets`` ``[N, K]``, NaN = unknown.

    Raises:
        DataError: a label is unknown for every film.
    """
    known = (~np.isnan(targets)).sum(axis=0).astype(np.float64)
    missing = [label for label, n in zip(schema.labels, known, strict=True) if n == 0]
    if missing:
        raise DataError(
            f"The training split has no known value of {', '.join(missing)}.",
            next_step="Add films with known values of it, or use a schema without it.",
        )
    positives = np.nansum(targets.astype(np.float64), axis=0)
    return Balance(positives=positives, known=known)


def alpha(config: LossConfig, balance: Balance, schema: LabelSchema) -> Tensor | None:
    """The weights float32 ``[K]`` that ``config`` asks for; ``None``: equal weights.

    For independent labels α is the weight of the positive term, and 1 − α of the negative term.

    - ``prevalence``: α = 1 − p, so that all positives together weigh as much as all negatives.
    - ``effective_numbers`` (Cui et al., CVPR 2019): n samples count as E = (1 − βⁿ)/(1 − β), and
      both terms are weighed by 1/E, normalised to one. β = 0 gives one half, β → 1 ``prevalence``.

    For exclusive classes the same 1/p or 1/E weighs each class, normalised to a mean of one.
    ``weighted_bce`` takes ``prevalence`` if α is not set (as Wang et al., CVPR 2017).
    """
    wanted = config.alpha
    if config.kind in {"bce", "asymmetric"}:
        return None
    if wanted is None and config.kind == "weighted_bce":
        wanted = "prevalence"
    if wanted is None:
        return None
    if isinstance(wanted, dict):
        return torch.tensor([wanted[label] for label in schema.labels])
    if isinstance(wanted, float):
        return torch.full((len(schema.labels),), wanted)
    beta = config.beta if wanted == "effective_numbers" else None
    positive = _weight(balance.positives, beta)
    if schema.kind == "multi_class":
        return torch.from_numpy(positive / positive.mean()).float()
    negative = _weight(balance.known - balance.positives, beta)
    return torch.from_numpy(positive / (positive + negative)).float()


def _weight(n: _FloatArray, beta: float | None) -> _FloatArray:
    """1/n, or the inverse effective number. A class that is absent counts as one film."""
    n = np.maximum(n, 1.0)
    if beta is None:
        return 1 / n
    # expm1 and log1p: β is close to one.
    weight: _FloatArray = (1 - beta) / -np.expm1(n * np.log(beta)) if beta else np.ones_like(n)
    return weight
