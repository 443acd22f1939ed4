"""The convolutional network of the film check, in numpy, so that it can run in decode processes,
which have little memory and no engine.

It has four convolutions, each followed by a ReLU, and two dense layers. Batch normalisation is
folded into the weights by :mod:`tools.filmcheck`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

WEIGHTS: Final = "weights.npz"
PROVENANCE: Final = "provenance.json"
KINDS: Final = ("frontal", "lateral", "other")
# (kernel, stride, padding) of the convolutions `c0` … `c3`.
LAYERS: Final = ((5, 2, 2), (3, 2, 1), (3, 2, 1), (3, 2, 1))


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """The network's probabilities for N views. Each row of the first two adds up to 1."""

    kind: Float32Array  # [N, 3], in the order of KINDS
    turn: Float32Array  # [N, 4], turned counterclockwise by 0, 90, 180, 270 degrees
    inverted: Float32Array  # [N]
    mirrored: Float32Array  # [N]


class Network:
    """The network with its weights.

    Args:
        weights: ``c0.weight`` … ``d1.bias`` as :func:`tools.filmcheck.network.folded` names them:
            convolutions ``[k·k·in, out]``, dense layers ``[in, out]``.
    """

    def __init__(self, weights: dict[str, npt.NDArray[np.float16]]) -> None:
        self._weights = {name: value.astype(np.float32) for name, value in weights.items()}

    def __call__(self, views: Float32Array) -> Opinion:
        """Run the network on views, float32 ``[N, SIDE, SIDE]``."""
        w = self._weights
        x = views[..., np.newaxis]
        for n, layer in enumerate(LAYERS):
            x = _convolution(x, w[f"c{n}.weight"], w[f"c{n}.bias"], layer)
        x = np.maximum(x.reshape(len(x), -1) @ w["d0.weight"] + w["d0.bias"], 0)
        x = x @ w["d1.weight"] + w["d1.bias"]
        return Opinion(
            kind=_softmax(x[:, :3]),
            turn=_softmax(x[:, 3:7]),
            inverted=_softmax(x[:, 7:9])[:, 1],
            mirrored=_softmax(x[:, 9:11])[:, 1],
        )


@cache
def bundled() -> Network:
    """Load the network that comes with hilum."""
    data = files(__package__).joinpath(WEIGHTS).read_bytes()
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        return Network({name: arrays[name] for name in arrays.files})


@cache
def digest() -> str:
    """The sha256 of the bundled network's file, hexadecimal."""
    return hashlib.sha256(files(__package__).joinpath(WEIGHTS).read_bytes()).hexdigest()


@cache
def thresholds() -> dict[str, float]:
    """For each doubt, the probability from which the bundled network counts as sure."""
    text = files(__package__).joinpath(PROVENANCE).read_text()
    found: dict[str, float] = json.loads(text)["thresholds"]
    return found


def _convolution(
    x: Float32Array, weight: Float32Array, bias: Float32Array, layer: tuple[int, int, int]
) -> Float32Array:
    """``[N, H, W, C]`` to ``[N, H/stride, W/stride, out]``, then ReLU."""
    kernel, stride, pad = layer
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # [N, h, w, C, k, k]
    n, h, w = windows.shape[:3]
    columns = windows.reshape(n * h * w, -1)  # C·k·k, as torch's weights have them
    return np.asarray(np.maximum((columns @ weight + bias).reshape(n, h, w, -1), 0))


def _softmax(x: Float32Array) -> Float32Array:
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
