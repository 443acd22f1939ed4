"""The network of :mod:`hilum.filmcheck.network` in torch, for training."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hilum.filmcheck.network import LAYERS
from hilum.filmcheck.view import SIDE

CHANNELS: Final = (1, 16, 32, 48, 64)
HIDDEN: Final = 48
EPSILON: Final = 1e-5
OUTPUTS: Final = 3 + 4 + 2 + 2  # kind, turn, polarity, sides


class FilmNetwork(nn.Module):
    """Turns views ``[N, 1, SIDE, SIDE]`` into logits ``[N, OUTPUTS]``."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(CHANNELS[n], CHANNELS[n + 1], kernel, stride, padding, bias=False)
            for n, (kernel, stride, padding) in enumerate(LAYERS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=EPSILON) for width in CHANNELS[1:])
        side = SIDE // 2 ** len(LAYERS)
        self.drop = nn.Dropout(0.3)
        self.dense = nn.Linear(CHANNELS[-1] * side * side, HIDDEN)
        self.heads = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = views
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order of the NumPy network: [N, h, w, C]
        x = torch.relu(self.dense(self.drop(x)))
        out: torch.Tensor = self.heads(x)
        return out


def folded(network: FilmNetwork) -> dict[str, npt.NDArray[np.float16]]:
    """The weights for :class:`hilum.filmcheck.network.Network`, in half precision, with the running
    statistics of batch normalisation folded in."""
    found: dict[str, npt.NDArray[np.float16]] = {}
    layers = zip(network.convolutions, network.norms, strict=True)
    for n, (convolution, norm) in enumerate(layers):
        scale = _numpy(norm.weight) / np.sqrt(_numpy(norm.running_var) + EPSILON)
        weight = _numpy(convolution.weight) * scale[:, None, None, None]
        found[f"c{n}.weight"] = _half(weight.reshape(len(weight), -1).T)
        found[f"c{n}.bias"] = _half(_numpy(norm.bias) - _numpy(norm.running_mean) * scale)
    for n, layer in enumerate((network.dense, network.heads)):
        found[f"d{n}.weight"] = _half(_numpy(layer.weight).T)
        found[f"d{n}.bias"] = _half(_numpy(layer.bias))
    return found


def _numpy(tensor: object) -> npt.NDArray[np.float32]:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(type(tensor).__name__)
    return tensor.detach().numpy()


def _half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(values, dtype=np.float16)
