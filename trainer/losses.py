"""Losses on logits, stable at any magnitude, with unknown labels left out.

Focal loss (Lin et al., ICCV 2017, equation 5): FL = −α_t (1 − p_t)^γ log p_t. ``alpha`` is the
weight of the *positive* term and 1 − α that of the negative one, per class; 0.25, the value of
the paper, therefore favours negatives (there, against hard ones at γ = 2). With γ = 0 and no α it
is the cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_sigmoid(
    logits: Tensor, targets: Tensor, *, gamma: float, alpha: Tensor | None = None
) -> Tensor:
    """Mean focal loss of independent labels.

    Args:
        logits: ``[N, K]``.
        targets: ``[N, K]`` in [0, 1]; NaN where the label is not known.
        gamma: focusing parameter, >= 0.
        alpha: ``[K]`` in (0, 1), or ``None`` for equal weight of both terms.

    Returns:
        The mean over the known labels; 0 if none is known.
    """
    known = ~targets.isnan()
    target = torch.where(known, targets, 0.0)
    positive = target * F.softplus(-logits)
    negative = (1 - target) * F.softplus(logits)
    if gamma:
        # (1 − p)^γ and p^γ through the log, whose gradient is finite where p underflows.
        positive = positive * torch.exp(-gamma * F.softplus(logits))
        negative = negative * torch.exp(-gamma * F.softplus(-logits))
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    loss = torch.where(known, positive + negative, 0.0)
    return loss.sum() / known.sum().clamp(min=1)


def focal_softmax(
    logits: Tensor, targets: Tensor, *, gamma: float, alpha: Tensor | None = None
) -> Tensor:
    """Mean focal loss of exclusive classes.

    Args:
        logits: ``[N, K]``.
        targets: ``[N, K]``, rows that sum to one; rows with a NaN are left out.
        gamma: focusing parameter, >= 0.
        alpha: weight of each class ``[K]``, or ``None``.

    Returns:
        The mean over the known rows; 0 if none is known.
    """
    known = ~targets.isnan().any(dim=1)
    target = torch.where(known[:, None], targets, 0.0)
    log_p = logits.log_softmax(dim=1)
    loss = -target * log_p
    if gamma:
        loss = loss * (1 - log_p.exp()).clamp(min=1e-12) ** gamma
    if alpha is not None:
        loss = loss * alpha
    return loss.sum() / known.sum().clamp(min=1)
