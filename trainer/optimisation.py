"""The learning rate of every parameter at every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainer.backbones import blocks, heads
from trainer.config import OptimiserConfig, Stage
from trainer.objective import Objective

PEAK = "peak"  # key of a group's largest learning rate in the schedule


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
