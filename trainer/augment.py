"""Augmentation: changes that patients, positioning and machines cause, too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import Augmentation


def augment(
    images: Tensor, masks: Tensor | None, config: Augmentation, seeds: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Change each image, and its masks with it, by random numbers of its own.

    Args:
        images: uint8 ``[N, 1, S, S]``, on any device.
        masks: float32 ``[N, K, s, s]``, moved like the images; or ``None``.
        config: the largest changes.
        seeds: one for each image. The same seed changes an image in the same way in every batch.
    """
    draws, noise = _draw(images, config, seeds)
    # Uniform in [-1, 1], except the last, which is in [0, 1].
    angle, zoom, right, down, contrast, brightness, flip = draws.to(images.device).unbind(1)
    angle = angle * math.radians(config.rotate_deg)
    zoom = 1 + zoom * config.scale
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    mirror = torch.where(flip < config.horizontal_flip, -1.0, 1.0)
    rows = (
        torch.stack((cos * mirror, -sin, right * 2 * config.shift), 1),
        torch.stack((sin * mirror, cos, down * 2 * config.shift), 1),
    )
    matrix = torch.stack(rows, 1)
    changed = _move(images.float(), matrix, "bilinear")
    gain = (1 + contrast * config.contrast).view(-1, 1, 1, 1)
    offset = (brightness * 255 * config.brightness).view(-1, 1, 1, 1)
    changed = (changed - 127.5) * gain + 127.5 + offset
    if noise is not None:
        changed = changed.add_(noise, alpha=255 * config.noise)
    if masks is not None:
        masks = _move(masks, matrix, "nearest")
    return changed.round_().clamp_(0, 255).to(torch.uint8), masks


def shrink(images: Tensor, size: int) -> Tensor:
    """Resize uint8 ``[N, 1, S, S]`` to side ``size``, antialiased."""
    if images.shape[-1] == size:
        return images
    small = F.interpolate(
        images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return small.round().clamp(0, 255).to(torch.uint8)


def _draw(
    images: Tensor, config: Augmentation, seeds: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Seven random numbers for each image, float32 ``[N, 7]`` on the CPU; noise like ``images``."""
    numbers = torch.Generator()
    pixels = torch.Generator(images.device)
    draws = torch.empty(len(images), 7)
    noise = torch.empty(images.shape, device=images.device) if config.noise else None
    for n, seed in enumerate(seeds):
        draws[n] = torch.rand(7, generator=numbers.manual_seed(seed))
        if noise is not None:
            noise[n].normal_(generator=pixels.manual_seed(seed ^ 1))
    draws[:, :6] = draws[:, :6] * 2 - 1
    return draws, noise


def _move(images: Tensor, matrix: Tensor, mode: str) -> Tensor:
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, align_corners=False)
