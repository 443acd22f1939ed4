"""Grad-CAM by autograd (Selvaraju et al. 2017, equations 1 and 2), the reference for the closed
form: for its speed here, and for its values in the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.backbones import Classifier


def usual(model: Classifier, image: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The usual form, also that of the grad-cam package: forward with gradients, then
    ``backward()`` from the logit. Arguments and results as :func:`one_label`."""
    model.zero_grad()
    activation = model.activation(image)
    activation.retain_grad()
    logits = model.head(activation)
    logits[:, label].sum().backward()
    assert activation.grad is not None
    weight = activation.grad.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weight * activation).sum(dim=1))
    return logits.detach(), cam.detach()


def one_label(model: Classifier, image: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Logits ``[N, K]`` and the map of ``label`` ``[N, h, w]`` for uint8 ``[N, 1, S, S]``.

    The least that autograd can do: no gradient below the activation is recorded or computed.
    """
    with torch.no_grad():
        activation = model.activation(image)
    activation.requires_grad_(True)
    logits = model.head(activation)
    (gradient,) = torch.autograd.grad(logits[:, label].sum(), activation)
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weight * activation).sum(dim=1))
    return logits.detach(), cam.detach()
