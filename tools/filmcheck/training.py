"""The training loop of the film check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from hilum.filmcheck.network import KINDS
from tools.filmcheck.data import Views
from tools.filmcheck.network import FilmNetwork

EPOCHS: Final = 7
BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
_FRONTAL, _OTHER = KINDS.index("frontal"), KINDS.index("other")

Say = Callable[[str], None]


def train(views: Views, *, seed: int, say: Say) -> FilmNetwork:
    """A network trained on ``views``, its weights the mean over the last steps."""
    torch.manual_seed(seed)
    network = FilmNetwork()
    steps = EPOCHS * (len(views.kind) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    rng = np.random.default_rng(seed)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(views.kind))
        losses = []
        for start in range(0, len(order) - BATCH + 1, BATCH):
            optimiser.zero_grad()
            value = loss(network, views, order[start : start + BATCH])
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(value.item())
        say(f"epoch {epoch + 1}/{EPOCHS}: loss {np.mean(losses):.4f}")
    return network.eval()


def loss(network: FilmNetwork, views: Views, chosen: np.ndarray) -> torch.Tensor:
    """What kind of film it is, for all; how it lies, for chests; its sides, for frontal ones."""
    out = network(torch.from_numpy(views.view[chosen].astype(np.float32))[:, None])
    kind, turn, inverted, mirrored = (
        torch.from_numpy(values[chosen])
        for values in (views.kind, views.turn, views.inverted, views.mirrored)
    )
    chest, frontal = kind != _OTHER, kind == _FRONTAL
    return (
        F.cross_entropy(out[:, :3], kind, label_smoothing=0.01)
        + F.cross_entropy(out[chest, 3:7], turn[chest], label_smoothing=0.01)
        + F.cross_entropy(out[chest, 7:9], inverted[chest], label_smoothing=0.01)
        + 0.5 * F.cross_entropy(out[frontal, 9:11], mirrored[frontal], label_smoothing=0.01)
    )
