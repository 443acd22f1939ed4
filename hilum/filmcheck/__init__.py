"""The film check: does the model input show an upright, frontal chest film?

A header can be wrong, so the check looks at the picture. Its network is small, trained on synthetic
distortions, and rather silent than wrong: ``docs/understand/films.md`` has its error rates. The
policy decides what follows from a doubt (:mod:`hilum.pipeline.admit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from hilum.filmcheck import network
from hilum.filmcheck.network import Float32Array, Opinion
from hilum.filmcheck.view import contrast, view
from hilum.imaging.transform import ModelInput

__all__ = ["Doubt", "Name", "doubts"]

Name = Literal["blank", "not_chest", "not_frontal", "inverted", "rotated", "mirrored"]

# A picture with fewer grey values than this is blank.
_GREYS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Something that seems wrong with a film. Only a ``sure`` doubt can lead to a refusal."""

    name: Name
    sure: bool
    turn: int = 0  # for ``rotated``: degrees counterclockwise by which the film is turned


def doubts(found: ModelInput) -> tuple[Doubt, ...]:
    """The doubts about the film in a model input. Takes about half a millisecond.

    ``not_chest`` and ``not_frontal`` are sure only if the network is sure of them on average over
    all rotations and inversions of the picture. ``rotated`` and ``inverted`` are sure only if the
    network takes the corrected film for an upright frontal chest.
    """
    if contrast(found) < _GREYS:
        return (Doubt(name="blank", sure=True),)
    return check_view(view(found), network.bundled(), network.thresholds())


def check_view(
    seen: Float32Array, net: network.Network, sure_from: dict[str, float]
) -> tuple[Doubt, ...]:
    """Like :func:`doubts`, for one view, with the given network and thresholds."""
    first = net(seen[np.newaxis])
    _, lateral, other = (float(p) for p in first.kind[0])
    if max(lateral, other) >= 0.5:
        return _not_a_frontal_chest(seen, net, sure_from)
    turn, inverted = int(first.turn[0].argmax()), bool(first.inverted[0] >= 0.5)
    found: list[Doubt] = []
    upright = first
    if turn or inverted:
        undone = np.rot90(-seen if inverted else seen, -turn)
        upright = net(np.ascontiguousarray(undone)[np.newaxis])
        right = _right(upright)
        if turn:
            sure = min(float(first.turn[0, turn]), right) >= sure_from["rotated"]
            found.append(Doubt(name="rotated", sure=sure, turn=90 * turn))
        if inverted:
            sure = min(float(first.inverted[0]), right) >= sure_from["inverted"]
            found.append(Doubt(name="inverted", sure=sure))
    if float(upright.mirrored[0]) >= sure_from["mirrored"]:
        found.append(Doubt(name="mirrored", sure=False))
    return tuple(found)


def _not_a_frontal_chest(
    seen: Float32Array, net: network.Network, sure_from: dict[str, float]
) -> tuple[Doubt, ...]:
    poses = [np.rot90(sign * seen, turn) for turn in range(4) for sign in (1, -1)]
    frontal, lateral, other = net(np.stack(poses).astype(np.float32)).kind.mean(axis=0)
    if frontal >= max(lateral, other):
        return ()
    name: Name = "not_frontal" if lateral > other else "not_chest"
    # A lateral film that is taken for no chest is not a frontal chest either way, and vice versa.
    probability = float(max(lateral, other)) if name == "not_frontal" else float(other)
    return (Doubt(name=name, sure=probability >= sure_from[name]),)


def _right(opinion: Opinion) -> float:
    """How sure the network is that this is an upright, not inverted, frontal chest: the lowest of
    its three probabilities."""
    return min(float(opinion.kind[0, 0]), float(opinion.turn[0, 0]), 1 - float(opinion.inverted[0]))
