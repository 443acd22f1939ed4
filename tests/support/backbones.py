"""Backbones with seeded random weights, and their exported graphs, each made once a process.

Share a graph between processes with the fixture ``backbone_graph``.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from export.onnx import export
from trainer.backbones import BACKBONES, AlexNetHead, Classifier, Normalise, build

LABELS = 14
_HIDDEN = 64  # instead of 4096: AlexNet's head alone weighs 200 MB
# ResNet-152 has the blocks of ResNet-50, more of them, and takes a minute of a whole test run.
DISTINCT = [name for name in BACKBONES if name != "resnet152"]


@functools.cache
def model(name: str) -> Classifier:
    """In evaluation mode. Random, but alive: batch statistics away from their neutral start, so
    that activations stay in range through 152 layers and the maps of all labels differ."""
    torch.manual_seed(7)
    if name == "alexnet":
        return narrow_alexnet(LABELS)
    built = build(name, LABELS)
    for module in built.modules():
        # As training does: blocks add little to what passes by them. Without this 50 random
        # blocks amplify rounding beyond what any trained network does.
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            torch.nn.init.constant_(last.weight, 0.3)
    built.train()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # plain average over the calls below
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for _ in range(2):
            built(images(name, 2))
    return built.eval()


def narrow_alexnet(outputs: int) -> Classifier:
    """AlexNet with 64 values in its hidden layers, in evaluation mode."""
    hidden = nn.Linear(256 * 6 * 6, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)
    features = models.alexnet().features[:-1]
    normalise = Normalise(*BACKBONES["alexnet"].normalisation)
    return Classifier("alexnet", features, AlexNetHead(*hidden, outputs), None, normalise).eval()


@functools.cache
def graph(name: str) -> bytes:
    """The exported float32 graph of :func:`model`."""
    return export(model(name), "multi_label", size=BACKBONES[name].native_size)


def images(name: str, count: int, *, seed: int = 3) -> torch.Tensor:
    """Smooth random films, uint8 ``[count, 1, S, S]``."""
    size = BACKBONES[name].native_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 1, 12, 12), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    noise = 0.05 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)
