"""Training with boxes, where a data set has them.

During training a linear layer on every cell of the Grad-CAM layer learns which labels lie there
(compare Li et al., CVPR 2018). The features so also learn small findings, which the pooled head
alone hardly finds among all the cells. After training the layer is dropped: the model keeps its
plain head, and Grad-CAM stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional as F

from hilum.imaging.transform import Placement
from hilum.packages.labels import LabelSchema
from trainer.data import SplitFilms

SIDE = 28  # of the masks: finer than any grid they are compared with


class CellHead(nn.Module):
    """Logits of every label in every cell."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, labels, kernel_size=1)
        nn.init.normal_(self.linear.weight, std=0.01)
        assert self.linear.bias is not None
        nn.init.constant_(self.linear.bias, math.log(0.05 / 0.95))

    def loss(self, activation: Tensor, cells: Tensor, total: Tensor) -> Tensor:
        """Sum of the cross-entropy of the known cells, divided by ``total``.

        Args:
            activation: ``[N, C, h, w]``.
            cells: ``[N, K, h, w]``, see :func:`pool_masks`.
            total: number of known cells in the whole batch.
        """
        logits = self.linear(activation).float()
        known = (cells >= 0).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, cells.clamp(min=0), reduction="none")
        mean: Tensor = (loss * known).sum() / total.clamp(min=1)
        return mean


def pool_masks(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks ``[N, K, SIDE, SIDE]`` reduced to the cells of ``grid``: 1 in a cell that a box
    touches, 0 outside, -1 unknown."""
    return F.adaptive_max_pool2d(masks, list(grid))


def masks(
    split: SplitFilms, schema: LabelSchema, rows: Iterable[int] | None = None
) -> npt.NDArray[np.int8]:
    """Masks ``[N, K, SIDE, SIDE]`` of ``rows`` (``None``: of all): 1 where a box of the label lies
    in the model input, else 0.

    The whole mask is -1 for a label that is unknown or present without a box, and for the label of
    a normal film, which has no place.
    """
    chosen = range(len(split)) if rows is None else [int(row) for row in rows]
    out = np.zeros((len(chosen), len(schema.labels), SIDE, SIDE), dtype=np.int8)
    for n, row in enumerate(chosen):
        record, placement = split.records[row], split.placement(row)
        height, width = split.sizes[row]
        boxed = set()
        for box in record.boxes:
            k = schema.index(box.label)
            boxed.add(k)
            corners = (box.x0, box.y0, box.x1, box.y1)
            x0, y0, x1, y1 = _cells(corners, placement, int(height), int(width))
            out[n, k, y0:y1, x0:x1] = 1
        for k, target in enumerate(record.targets):
            if k not in boxed and (target != 0 or schema.labels[k] == schema.normal):
                out[n, k] = -1
    return out


def _cells(
    box: Sequence[float], placement: Placement, height: int, width: int
) -> tuple[int, int, int, int]:
    """``box`` in cells of the mask, half-open, at least one cell: x0, y0, x1, y1."""
    per_x = (placement.x1 - placement.x0) / width * SIDE / placement.size
    per_y = (placement.y1 - placement.y0) / height * SIDE / placement.size
    left, top = placement.x0 * SIDE / placement.size, placement.y0 * SIDE / placement.size
    x0, x1 = left + box[0] * per_x, left + box[2] * per_x
    y0, y1 = top + box[1] * per_y, top + box[3] * per_y
    start_x, start_y = round(x0), round(y0)
    return start_x, start_y, max(start_x + 1, round(x1)), max(start_y + 1, round(y1))
