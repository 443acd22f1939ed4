"""Resize a film of which only some samples were decoded, as if every pixel had been decoded.

The antialiasing filter is that of the whole film, so the weight of each pixel of the film in each
pixel of the result is known. How samples stand for pixels is known too: a mean stands for its
block, with the slope between its neighbours, and low-pass samples of a wavelet stand for what its
synthesis makes of them with all details zero (ISO 15444-1 annex F). So the weights are folded from
pixels onto samples. The result differs from that of the whole film only by the filtered details
that were left out. The details of the 5/3 wavelet do not respond to straight lines, of which the
filter consists, so they count only at its three corners. (Resizing the samples like a smaller
picture would blur twice, and would keep the lift that the wavelet gives to medium frequencies.)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from hilum.dicom.reduced import Samples

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

# Synthesis low-pass of the 9/7 wavelet (ISO 15444-1 table F.4); its sum is 2.
_HALF: Final = (-0.091271763114250, -0.057543526228500, 0.591271763114250)
_SYNTHESIS_97: Final = np.array([*_HALF, 1.115087052456994, *reversed(_HALF)])


def resize(samples: Float32Array, how: Samples, size: tuple[int, int]) -> Float32Array:
    """Resize the film that ``samples`` ``[h, w]`` stand for to ``size`` = (width, height), with a
    bilinear filter that is widened to shrink."""
    width, height = size
    rows = _folded(how.rows, len(samples), height, how.kind, how.step)
    columns = _folded(how.columns, samples.shape[1], width, how.kind, how.step)
    lower = _weighted(samples, rows)
    return np.ascontiguousarray(_weighted(np.ascontiguousarray(lower.T), columns).T)


def _weighted(samples: Float32Array, weights: tuple[IntArray, Float32Array]) -> Float32Array:
    """Weighted sums of rows of ``samples``, by their indices ``[n, t]`` and weights ``[n, t]``."""
    indices, factors = weights
    total = np.zeros((len(indices), samples.shape[1]), dtype=np.float32)
    for at, factor in zip(indices.T, factors.T, strict=True):
        total += samples[at] * factor[:, None]
    return total


@lru_cache(maxsize=128)
def _folded(
    pixels: int, samples: int, size: int, kind: str, step: int
) -> tuple[IntArray, Float32Array]:
    """For each of ``size`` results the indices of samples ``[size, t]`` and their weights."""
    at, weight = _triangle(pixels, size)
    result = np.broadcast_to(np.arange(size)[:, None], at.shape)
    whole = np.zeros(size * samples)
    sample, phase = np.divmod(at, step)
    for offset, shares in _shares(kind, step):
        k = np.abs(sample + offset)  # both ends are mirrored, as for the wavelets
        k = np.minimum(np.where(k < samples, k, 2 * samples - 1 - k), samples - 1)
        found = np.bincount(
            (result * samples + np.maximum(k, 0)).ravel(),
            (weight * shares[phase]).ravel(),
            size * samples,
        )
        whole += found
    dense = whole.reshape(size, samples)
    first = (dense != 0).argmax(axis=1)
    count = int((samples - (dense[:, ::-1] != 0).argmax(axis=1) - first).max())
    indices = np.minimum(first[:, None] + np.arange(count), samples - 1)
    inside = first[:, None] + np.arange(count) < samples
    factors = np.where(inside, np.take_along_axis(dense, indices, axis=1), 0)
    return indices, factors.astype(np.float32)


def _triangle(pixels: int, size: int) -> tuple[IntArray, Float64Array]:
    """The bilinear filter of Pillow: indices of pixels ``[size, t]`` and their weights."""
    scale = pixels / size
    support = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.intp), 0)
    at = first[:, None] + np.arange(math.ceil(2 * support) + 2)
    weight = np.maximum(1 - np.abs(at + 0.5 - centre[:, None]) / support, 0)
    weight[at >= pixels] = 0
    return np.minimum(at, pixels - 1), weight / weight.sum(axis=1, keepdims=True)


def _shares(kind: str, step: int) -> list[tuple[int, Float64Array]]:
    """The contributions of samples to a pixel: for each distance of a sample from the pixel's own
    sample, its share by the position of the pixel in its step, 0 … ``step`` − 1."""
    places = np.arange(step)
    if kind == "means":  # the mean, and the slope between its two neighbours
        slope = ((places + 0.5) / step - 0.5) / 2
        return [(-1, -slope), (0, np.ones(step)), (1, slope)]
    if kind == "5/3":  # straight lines from sample to sample
        return [(0, 1 - places / step), (1, places / step)]
    impulse = np.ones(1)
    for _ in range(step.bit_length() - 1):
        between = np.zeros(2 * len(impulse) - 1)
        between[::2] = impulse
        impulse = np.convolve(between, _SYNTHESIS_97)
    middle = len(impulse) // 2
    reach = middle // step
    found = []
    for offset in range(-reach, reach + 2):
        at = middle + places - offset * step
        inside = (at >= 0) & (at < len(impulse))
        found.append((offset, np.where(inside, impulse[np.clip(at, 0, len(impulse) - 1)], 0.0)))
    return found
