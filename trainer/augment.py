"""Augmentation within what patients, positioning and machines do."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import Augmentation


def augment(
    images: Tensor, masks: Tensor | None, config: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Change each image in its own way, and its masks with it.

    Args:
        images: uint8 ``[N, 1, S, S]``.
        masks: float32 ``[N, K, s, s]``, moved as the images are; ``None``: there are none.
        config: how much.
        generator: of the random numbers.
    """
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(config.rotate_deg))
    zoom = 1 + uniform(config.scale)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = uniform(2 * config.shift), uniform(2 * config.shift)
    rows = (torch.stack((cos, -sin, shift_x), 1), torch.stack((sin, cos, shift_y), 1))
    matrix = torch.stack(rows, 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    contrast = (1 + uniform(config.contrast)).view(-1, 1, 1, 1)
    brightness = uniform(255 * config.brightness).view(-1, 1, 1, 1)
    noise = torch.randn(moved.shape, generator=generator) * (255 * config.noise)
    changed = (moved - 127.5) * contrast + 127.5 + brightness + noise
    if masks is not None:
        small = F.affine_grid(matrix, list(masks.shape), align_corners=False)
        masks = F.grid_sample(masks, small, mode="nearest", align_corners=False)
    return changed.round().clamp(0, 255).to(torch.uint8), masks


def shrink(images: Tensor, size: int) -> Tensor:
    """uint8 ``[N, 1, S, S]`` to side ``size``, antialiased."""
    if images.shape[-1] == size:
        return images
    small = F.interpolate(
        images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return small.round().clamp(0, 255).to(torch.uint8)
