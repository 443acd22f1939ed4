"""A ResNet of a few channels, named "tiny": what a run does does not depend on the size of its
model, and a ResNet-18 would spend a second and 130 MB of disk on each state of a run.

:func:`registered` makes hilum know it; tests/trainer/conftest.py does. In another process::

    PYTHONPATH=.:tests python -m support.tiny_backbone train CONFIG --to DIR
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from hilum.packages import manifest
from trainer.backbones import BACKBONES, Backbone

NAME, CHANNELS = "tiny", 32
_TESTS = Path(__file__).parents[1]
PYTHONPATH = f"{_TESTS.parent}:{_TESTS}"  # for another process


class TinyResNet(ResNet):
    """One block a layer, from 8 to 32 channels; the names of the modules are torchvision's."""

    def __init__(self, *, weights: None = None, **_: Any) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.inplanes = 8
        self.conv1 = nn.Conv2d(3, 8, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        for number, width in enumerate((8, 16, 24, CHANNELS), 1):
            layer = self._make_layer(BasicBlock, width, 1, stride=1 if number == 1 else 2)
            setattr(self, f"layer{number}", layer)
        self.fc = nn.Linear(CHANNELS, 1000)


@contextmanager
def registered() -> Iterator[None]:
    """Let trainer and packages know it for a while."""
    known = Backbone(build=TinyResNet, weights="", channels=CHANNELS)
    names = (*manifest.BACKBONES, NAME)
    with patch.dict(BACKBONES, {NAME: known}), patch.object(manifest, "BACKBONES", names):
        yield


if __name__ == "__main__":
    from hilum.cli import main

    with registered():
        main()
