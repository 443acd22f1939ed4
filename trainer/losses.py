"""Losses on logits, stable at any magnitude, with unknown labels left out.

Focal loss (Lin et al., ICCV 2017, equation 5): FL = −α_t (1 − p_t)^γ log p_t. ``alpha`` is the
weight of the *positive* term and 1 − α that of the negative term, per label; the paper's 0.25
therefore favours negatives (in the paper, against hard negatives at γ = 2). With γ = 0 and no α it
is the cross-entropy. For exclusive classes α is the weight of each class.

Every function returns a mean; ``total`` replaces the number it is taken over. The losses of the
parts of a batch, in several processes or one after another, so add up to the loss of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hilum.packages.labels import HeadKind
from trainer.config import LossConfig


def sigmoid_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 0.0,
    margin: float = 0.0,
    alpha: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Mean loss of independent labels.

    With one γ it is the focal loss. With two, and a margin, it is the asymmetric loss (Ridnik et
    al., ICCV 2021, equations 4 to 7): the margin is taken off the probability of a negative, so a
    negative scored below the margin has no part in the loss.

    Args:
        logits: ``[N, K]``.
        targets: ``[N, K]`` in [0, 1]; NaN where the label is unknown.
        gamma_positive: focusing of positives, >= 0.
        gamma_negative: focusing of negatives, >= 0.
        margin: in [0, 1).
        alpha: ``[K]`` in (0, 1), or ``None`` for equal weight of both terms.
        total: what to divide the sum by; ``None``: the number of known labels.

    Returns:
        The mean over the known labels; 0 if none is known.
    """
    known = ~targets.isnan()
    target = torch.where(known, targets, 0.0)
    # Powers of p and 1 − p through the log, whose gradient is finite where they underflow.
    positive = target * F.softplus(-logits)
    if gamma_positive:
        positive = positive * torch.exp(-gamma_positive * F.softplus(logits))
    if margin:
        shifted = (torch.sigmoid(logits) - margin).clamp(min=0)
        negative = (1 - target) * -torch.log1p(-shifted)
        if gamma_negative:
            # Where the margin leaves no probability, a power below one has no finite slope.
            negative = negative * shifted.clamp(min=1e-6) ** gamma_negative
    else:
        negative = (1 - target) * F.softplus(logits)
        if gamma_negative:
            negative = negative * torch.exp(-gamma_negative * F.softplus(-logits))
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _mean(torch.where(known, positive + negative, 0.0), known, total)


def softmax_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float,
    alpha: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Mean focal loss of exclusive classes.

    Args:
        logits: ``[N, K]``.
        targets: ``[N, K]``, rows that sum to one; rows with a NaN are left out.
        gamma: focusing, >= 0.
        alpha: weight of each class ``[K]``, or ``None``.
        total: what to divide the sum by; ``None``: the number of known rows.

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
    return _mean(loss, known, total)


class Loss(nn.Module):
    """The loss of a configuration, for one kind of head."""

    alpha: Tensor | None

    def __init__(self, config: LossConfig, kind: HeadKind, alpha: Tensor | None) -> None:
        """Args: ``alpha`` float32 ``[K]``, see :func:`trainer.balance.alpha`."""
        super().__init__()
        self._config = config
        self._kind = kind
        self.register_buffer("alpha", alpha, persistent=False)

    def known(self, targets: Tensor) -> Tensor:
        """How many entries of ``targets`` ``[N, K]`` the mean is taken over, int64."""
        known = ~targets.isnan()
        return (known if self._kind == "multi_label" else known.all(dim=1)).sum()

    def forward(self, logits: Tensor, targets: Tensor, total: Tensor | None = None) -> Tensor:
        """Logits ``[N, K]`` and targets ``[N, K]`` to the mean loss."""
        config, logits = self._config, logits.float()
        gamma = config.gamma if config.kind == "focal" else 0.0
        if self._kind == "multi_class":
            return softmax_loss(logits, targets, gamma=gamma, alpha=self.alpha, total=total)
        is_asymmetric = config.kind == "asymmetric"
        return sigmoid_loss(
            logits,
            targets,
            gamma_positive=config.gamma_positive if is_asymmetric else gamma,
            gamma_negative=config.gamma_negative if is_asymmetric else gamma,
            margin=config.margin if is_asymmetric else 0.0,
            alpha=self.alpha,
            total=total,
        )


def _mean(loss: Tensor, known: Tensor, total: Tensor | None) -> Tensor:
    count = known.sum() if total is None else total
    return loss.sum() / count.clamp(min=1)
