"""The probabilities of a model in PyTorch, for validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hilum.packages.labels import HeadKind
from trainer.augment import shrink
from trainer.backbones import Classifier

_BATCH = 64


@torch.no_grad()
def predict(model: Classifier, images: npt.NDArray[np.uint8], size: int, kind: HeadKind) -> Tensor:
    """Probabilities float32 ``[N, K]``, on the CPU, of ``images`` uint8 ``[N, 1, S, S]`` resized to
    side ``size``; computed batch by batch."""
    model.eval()
    device = next(model.parameters()).device
    parts = [torch.empty(0, model.head.linear.out_features)]
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(np.array(images[start : start + _BATCH])).to(device)
        logits = model(shrink(batch, size))
        probability = logits.sigmoid() if kind == "multi_label" else logits.softmax(dim=1)
        parts.append(probability.cpu())
    return torch.cat(parts)
