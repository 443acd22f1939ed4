"""What training minimises, and with which learning rate each parameter follows at each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hilum.packages.labels import HeadKind
from trainer.backbones import Classifier, backbone, blocks, heads
from trainer.config import LossConfig, OptimiserConfig, Stage
from trainer.localisation import CellHead
from trainer.losses import Loss

PEAK = "peak"  # key of a group's largest learning rate in the schedule


class Objective(nn.Module):
    """A classifier with the loss of its heads, and of boxes where they are used.

    It is one module with one forward pass, so that DistributedDataParallel sees every gradient.
    """

    def __init__(
        self,
        model: Classifier,
        config: LossConfig,
        kind: HeadKind,
        alpha: Tensor | None,
    ) -> None:
        """Args: ``alpha`` float32 ``[K]``, see :func:`trainer.balance.alpha`."""
        super().__init__()
        self.model = model
        self.loss = Loss(config, kind, alpha)
        self.cells: CellHead | None = None
        if config.box_weight:
            channels, labels = backbone(model.name).channels, model.head.linear.out_features
            self.cells = CellHead(channels, labels)
        self._config = config

    def forward(
        self,
        images: Tensor,
        targets: Tensor,
        known: Tensor,
        cells: Tensor | None,
        known_cells: Tensor | None,
    ) -> Tensor:
        """The share of this part in the loss of the batch. The shares of all parts add up to it.

        Args:
            images: uint8 ``[n, 1, S, S]``.
            targets: float32 ``[n, K]``, NaN = unknown.
            known: number of known targets in the whole batch.
            cells: float32 ``[n, K, h, w]``: 1 in a box, 0 outside, -1 unknown; or ``None``.
            known_cells: number of known cells in the whole batch; or ``None``.
        """
        logits, activation, auxiliary = self.model.forward_training(images)
        loss: Tensor = self.loss(logits, targets, known)
        if auxiliary is not None:
            loss = loss + self._config.auxiliary_weight * self.loss(auxiliary, targets, known)
        if self.cells is not None and cells is not None and known_cells is not None:
            loss = loss + self._config.box_weight * self.cells.loss(activation, cells, known_cells)
        return loss


@torch.no_grad()
def grid(model: Classifier, size: int) -> tuple[int, int]:
    """Height and width of the Grad-CAM layer for inputs of side ``size``."""
    training = model.training
    parameter = next(model.parameters())
    shape = (
        model.eval()
        .activation(torch.zeros((1, 1, size, size), dtype=torch.uint8, device=parameter.device))
        .shape
    )
    model.train(training)
    return int(shape[2]), int(shape[3])


def groups(objective: Objective, stage: Stage, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW. The head has the stage's learning rate, each block of the
    backbone its own (discriminative fine-tuning, Howard and Ruder 2018). Sets ``requires_grad``.

    Weight decay does not apply to biases and normalisation layers.
    """
    new: list[nn.Module] = [*heads(objective.model)]
    if objective.cells is not None:
        new.append(objective.cells)
    head = [parameter for module in new for parameter in module.parameters()]
    rated = [(stage.learning_rate, head)]
    body = blocks(objective.model)
    for above, block in enumerate(reversed(body)):
        rate = stage.learning_rate * stage.backbone_scale * stage.layer_decay**above
        for parameter in block:
            parameter.requires_grad_(rate > 0)
        if rate > 0:
            rated.append((rate, block))
    found = []
    for rate, parameters in rated:
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                found.append({"params": chosen, PEAK: rate, "lr": 0.0, "weight_decay": decay})
    return found


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to ``factor`` times its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group[PEAK] * factor


def schedule(step: int, steps: int, config: OptimiserConfig) -> float:
    """The factor at ``step`` of the ``steps`` of a stage: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def set_modes(objective: Objective, stage: Stage) -> None:
    """Set training mode, and evaluation mode for the layers that ``stage`` freezes."""
    objective.train()
    model = objective.model
    if stage.backbone_scale == 0:
        model.features.eval()
    if stage.backbone_scale == 0 or stage.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
