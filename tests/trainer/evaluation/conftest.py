"""A split as a model might see it, with everything that evaluation looks at."""

from __future__ import annotations

import numpy as np
import pytest

from hilum.packages.labels import SYNTHETIC
from hilum.packages.manifest import OperatingPoint
from trainer.evaluation.scored import Scored
from trainer.manifest import Box, Record

SIDE = 64


def make(count: int = 240, seed: int = 0, *, skill: float = 1.5) -> Scored:
    """Films of ``count / 2`` patients. Nobody has a pneumothorax; sick people are filmed AP; the
    effusion's map points at its box, the nodule's nowhere."""
    rng = np.random.default_rng(seed)
    labels = SYNTHETIC.labels
    targets = (rng.random((count, len(labels))) < 0.3).astype(np.float32)
    targets[:, SYNTHETIC.index("Pneumothorax")] = 0
    targets[:, SYNTHETIC.index("No Finding")] = 0
    score = rng.normal(targets * skill, 1)
    cam = np.zeros((count, len(labels), 4, 4), dtype=np.float32)
    cam[:, SYNTHETIC.index("Effusion"), 3, 0] = 1
    records = []
    for n in range(count):
        found = {label: bool(targets[n, k]) for k, label in enumerate(labels)}
        boxes = []
        if found["Effusion"]:
            boxes.append(Box(label="Effusion", x0=0, y0=40, x1=20, y1=64))
        if found["Nodule/Mass"]:
            boxes.append(Box(label="Nodule/Mass", x0=40, y0=4, x1=52, y1=16))
        records.append(
            Record(
                uri=f"{n}.png",
                patient=f"p{n // 2}",
                split="test",
                targets=tuple(targets[n].tolist()),
                boxes=tuple(boxes),
                view="AP" if rng.random() < (0.8 if found["Effusion"] else 0.3) else "PA",
                sex="F" if n % 4 < 2 else "M",
                age=float(10 + n % 80),
                site="north" if n % 8 < 4 else "south",
            )
        )
    return Scored(
        schema=SYNTHETIC,
        records=tuple(records),
        sizes=np.full((count, 2), SIDE),
        targets=targets,
        probability=1 / (1 + np.exp(-score)),
        cam=cam,
        input_size=SIDE,
        points={label: OperatingPoint(threshold=0.6, rule="fixed") for label in labels},
    )


@pytest.fixture(scope="module")
def scored() -> Scored:
    """240 films."""
    return make()
