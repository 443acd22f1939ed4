"""«Is it a chest film, the right way up?», from the pixels that the model would see.

A header can be wrong; the check looks at the picture. It is small, trained on what can be
synthesised, and made to be sure before it says anything: see ``docs/understand/films.md`` for its
error rates. What follows from a finding is the model's policy (:mod:`hilum.pipeline.admit`).
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

# Fewer grey values than this are no film.
_GREYS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Something that seems wrong with a film. Only what is ``sure`` may be refused."""

    name: Name
    sure: bool
    turn: int = 0  # of ``rotated``: degrees counterclockwise that the film was turned by


def doubts(found: ModelInput) -> tuple[Doubt, ...]:
    """What is wrong with the film in the model's input, if anything; about half a millisecond.

    A picture is not a chest, or lateral, for sure only if the network is sure of it whichever way
    the picture is turned or inverted; a film is turned or inverted for sure only if the network
    takes it for an upright frontal chest once that has been undone.
    """
    if contrast(found) < _GREYS:
        return (Doubt(name="blank", sure=True),)
    return judged(view(found), network.bundled(), network.thresholds())


def judged(
    seen: Float32Array, net: network.Network, sure_from: dict[str, float]
) -> tuple[Doubt, ...]:
    """As :func:`doubts`, of one view, with another network or other thresholds."""
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
    # A lateral film taken for no chest, or the other way round, is no frontal chest either way.
    probability = float(max(lateral, other)) if name == "not_frontal" else float(other)
    return (Doubt(name=name, sure=probability >= sure_from[name]),)


def _right(opinion: Opinion) -> float:
    """How sure the network is that this is an upright frontal chest, bone bright: the least of
    its three probabilities."""
    return min(float(opinion.kind[0, 0]), float(opinion.turn[0, 0]), 1 - float(opinion.inverted[0]))
