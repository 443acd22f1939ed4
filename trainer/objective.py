"""What training minimises: the loss of the model's heads, and of boxes where they are used.

It is one module with one forward pass, so that DistributedDataParallel sees every gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hilum.packages.labels import HeadKind
from trainer.backbones import Classifier, backbone
from trainer.config import LossConfig
from trainer.localisation import CellHead
from trainer.losses import Loss


class Objective(nn.Module):
    """A classifier with its loss."""

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
