"""Two backbones at a size that suits tests: a pooled head and AlexNet's, random but alive."""

from __future__ import annotations

import functools

import torch
from support import backbones
from torch import nn
from torchvision.models.resnet import BasicBlock

from export.onnx import export
from trainer.backbones import Classifier, build

LABELS = 6
SIDES = {"resnet18": 64, "alexnet": 224}


@functools.cache
def model(name: str) -> Classifier:
    """In evaluation mode, with batch statistics of its own."""
    torch.manual_seed(7)
    if name == "alexnet":
        return backbones.narrow_alexnet(LABELS)
    built = build(name, LABELS).train()
    for module in built.modules():
        if isinstance(module, BasicBlock):
            nn.init.constant_(module.bn2.weight, 0.3)  # see support.backbones.model
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for _ in range(2):
            built(images(name, 4))
    return built.eval()


@functools.cache
def graph(name: str) -> bytes:
    """The exported float32 graph of :func:`model`."""
    return export(model(name), "multi_label", size=SIDES[name])


def images(name: str, count: int, *, seed: int = 3) -> torch.Tensor:
    """Smooth random films, uint8 ``[count, 1, S, S]``."""
    whole = backbones.images("resnet18", count, seed=seed)
    side = SIDES[name]
    small = nn.functional.interpolate(whole.float(), (side, side), mode="area")
    return small.to(torch.uint8)
