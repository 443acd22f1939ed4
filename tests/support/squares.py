"""A tiny data set of bright squares that mean something, and how to train on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from support import tiny_backbone

from hilum.packages.labels import SYNTHETIC
from trainer import manifest
from trainer.manifest import Box, Record

SIDE = 64


def write_dataset(home: Path, *, train: int = 36, val: int = 12, test: int = 12) -> Path:
    """A data-set table of films of 64×64: a square on the left is an effusion, right a nodule."""
    rng = np.random.default_rng(0)
    folder = home / "data"
    folder.mkdir()
    records = []
    for n in range(train + val + test):
        pixels = rng.normal(90, 12, (SIDE, SIDE))
        left, right = bool(rng.integers(2)), bool(rng.integers(2))
        boxes = []
        if left:
            pixels[36:56, 4:24] += 90
            boxes.append(Box(label="Effusion", x0=4, y0=36, x1=24, y1=56))
        if right:
            pixels[10:26, 40:56] += 90
            boxes.append(Box(label="Nodule/Mass", x0=40, y0=10, x1=56, y1=26))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        targets = (0.0, float(left), 0.0, float(right), 0.0, float(not (left or right)))
        split = "train" if n < train else "val" if n < train + val else "test"
        records.append(
            Record(
                uri=f"{n}.png", patient=f"p{n}", split=split, targets=targets, boxes=tuple(boxes)
            )
        )
    path = folder / "manifest.csv"
    manifest.write(path, records, SYNTHETIC)
    return path


def write_config(home: Path, dataset: Path, **changes: str) -> Path:
    """A training configuration; keyword arguments replace parts of it."""
    parts = {
        "head": f'seed = 3\nmanifest = "{dataset}"\n',
        "model": f'[model]\nbackbone = "{tiny_backbone.NAME}"\nweights = "random"\n'
        'label_schema = "synthetic-v1"\n',
        "preprocess": "[preprocess]\nsize = 64\n",
        "loss": "[loss]\ngamma = 1.0\nbox_weight = 0.5\n",
        "optimiser": "[optimiser]\nbatch_size = 12\nema_decay = 0.5\n",
        "tracking": "[tracking]\ntensorboard = false\n",
        "stages": "[[stages]]\nepochs = 2\nsize = 48\nlearning_rate = 2e-3\n"
        "[[stages]]\nepochs = 1\nsize = 64\nlearning_rate = 1e-3\n",
    } | changes
    path = home / "config.toml"
    path.write_text("".join(parts.values()))
    return path
