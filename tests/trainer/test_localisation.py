"""Boxes become masks, in the model's input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from trainer import data, localisation, manifest

SPEC = PreprocessSpec(size=48)


def test_masks_follow_the_boxes(dataset: Path, tmp_path: Path) -> None:
    train = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    masks = localisation.masks(train, SYNTHETIC)
    effusion, normal = SYNTHETIC.index("Effusion"), SYNTHETIC.index("No Finding")
    for n, record in enumerate(train.records):
        assert (masks[n, normal] == -1).all()
        expected = np.zeros((localisation.SIDE, localisation.SIDE), dtype=np.int8)
        if record.targets[effusion]:
            # The box 4 … 24 × 36 … 56 of a 64×64 film, in 28 cells.
            expected[16:24, 2:10] = 1
        assert np.array_equal(masks[n, effusion], expected)


def test_a_finding_without_a_box_teaches_nothing(dataset: Path, tmp_path: Path) -> None:
    records = [dataclasses.replace(r, boxes=()) for r in manifest.read(dataset, SYNTHETIC)]
    path = dataset.with_name("unboxed.csv")
    manifest.write(path, records, SYNTHETIC)
    train = data.load(path, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    masks = localisation.masks(train, SYNTHETIC)
    k = SYNTHETIC.index("Effusion")
    for n, record in enumerate(train.records):
        assert set(np.unique(masks[n, k])) == ({-1} if record.targets[k] else {0})


def test_masks_of_some_rows_are_those_rows(dataset: Path, tmp_path: Path) -> None:
    train = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    some = localisation.masks(train, SYNTHETIC, [5, 2])
    assert np.array_equal(some, localisation.masks(train, SYNTHETIC)[[5, 2]])


def test_the_cells_loss_is_cross_entropy_over_what_is_known() -> None:
    torch.manual_seed(0)
    head = localisation.CellHead(3, 2)
    activation = torch.randn(2, 3, 4, 4)
    masks = torch.zeros(2, 2, localisation.SIDE, localisation.SIDE)
    masks[0, 0, 3, 9] = 1  # one speck marks its cell
    masks[1, 1] = -1
    cells = localisation.pool_masks(masks, (4, 4))
    assert cells[0, 0].tolist() == [[0, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    known = (cells >= 0).sum()
    assert known == 48
    p = head.linear(activation).sigmoid()
    own = -(cells * p.log() + (1 - cells) * (1 - p).log())
    expected = own[cells >= 0].mean()
    torch.testing.assert_close(head.loss(activation, cells, known), expected)
