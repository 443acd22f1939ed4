"""A small checkpoint that knows something, without training: random features, a fitted head."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from support import small_backbones
from support.squares import SIDE, write_dataset

from export.package import Identity
from hilum.packages.labels import SYNTHETIC
from trainer import checkpoint, config, data, manifest
from trainer.backbones import PooledHead
from trainer.checkpoint import Checkpoint, CheckpointRecord

IDENTITY = Identity(
    name="small",
    version="1.0.0",
    intended_use="Tests of hilum.",
    licence="Apache-2.0",
    demonstration_only=True,
    data="Squares.",
    training="A fitted head.",
)


@dataclass(frozen=True)
class Small:
    """A checkpoint with its data set and a cache of prepared films."""

    checkpoint: Checkpoint
    folder: Path  # of the checkpoint
    cache: Path


def make(home: Path) -> Small:
    """A model below ``home`` that tells a bright square on the left (effusion) from one on the
    right (nodule)."""
    table = write_dataset(home, train=48, val=24, test=24)
    model = copy.deepcopy(small_backbones.model("resnet18"))  # it is shared, and changed here
    settings = config.parse(
        {
            "manifest": table,
            "model": {
                "backbone": "resnet18",
                "weights": "random",
                "label_schema": "synthetic-v1",
            },
            "preprocess": {"size": SIDE},
            "stages": [{"epochs": 1, "size": SIDE}],
        },
        "test",
    )
    cache = home / "cache"
    splits = data.load(table, SYNTHETIC, settings.preprocess, cache_dir=cache)
    train = splits["train"]
    with torch.no_grad():
        images = torch.from_numpy(np.array(train.images))
        pooled = model.activation(images).mean(dim=(2, 3)).numpy()
    head = model.head
    assert isinstance(head, PooledHead)
    for k in range(len(SYNTHETIC.labels)):
        if len(np.unique(train.targets[:, k])) == 2:
            fitted = LogisticRegression(C=1.0).fit(pooled, train.targets[:, k])
            with torch.no_grad():
                head.linear.weight[k] = torch.from_numpy(fitted.coef_[0]).float()
                head.linear.bias[k] = float(fitted.intercept_[0])
    record = CheckpointRecord(
        start_digest=None,
        config=settings,
        manifest_digest=manifest.digest(table),
        code_revision="test",
        epoch=1,
        validation_auroc=None,
        history=(),
    )
    checkpoint.save(home / "checkpoint", model.state_dict(), record)
    return Small(checkpoint.load(home / "checkpoint"), home / "checkpoint", cache)
