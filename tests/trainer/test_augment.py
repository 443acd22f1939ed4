"""Augmentation: each image in its own way, its boxes with it, left stays left."""

from __future__ import annotations

import torch

from trainer.augment import augment, shrink
from trainer.config import Augmentation


def test_augmentation_moves_boxes_with_the_film_and_never_mirrors() -> None:
    image = torch.zeros((16, 1, 112, 112), dtype=torch.uint8)
    image[:, :, 16:48, 8:40] = 255
    masks = torch.zeros((16, 1, 28, 28))
    masks[:, :, 4:12, 2:10] = 1
    strong = Augmentation(rotate_deg=12, scale=0.15, shift=0.08, contrast=0, brightness=0, noise=0)
    moved, boxes = augment(image, masks, strong, range(16))
    assert boxes is not None
    bright = torch.nn.functional.avg_pool2d(moved.float() / 255, 4) > 0.5
    overlap = ((boxes > 0.5) & bright).sum() / ((boxes > 0.5) | bright).sum()
    assert overlap > 0.85
    assert len({tuple(m.flatten().tolist()) for m in moved}) == 16, "each in its own way"
    columns = torch.nonzero(bright)[:, 3].float().mean()
    assert columns < 14, "left stays left"


def test_no_augmentation_changes_nothing() -> None:
    image = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    none = Augmentation(rotate_deg=0, scale=0, shift=0, contrast=0, brightness=0, noise=0)
    same, _ = augment(image, None, none, range(3))
    assert (same.int() - image.int()).abs().max() <= 1
    assert torch.equal(shrink(image, 32), image)
    assert shrink(image, 16).shape == (3, 1, 16, 16)


def test_an_image_changes_alike_whatever_is_beside_it() -> None:
    image = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    whole, _ = augment(image, None, Augmentation(), [7, 8, 9, 10])
    part, _ = augment(image[2:], None, Augmentation(), [9, 10])
    # Up to one grey level: grid_sample may round by its place in memory.
    assert (whole[2:].int() - part.int()).abs().max() <= 1
    other, _ = augment(image[2:], None, Augmentation(), [9, 11])
    assert not torch.equal(other[1], part[1])


def test_noise_is_as_strong_as_asked_for_and_different_everywhere() -> None:
    image = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    still = Augmentation(rotate_deg=0, scale=0, shift=0, contrast=0, brightness=0, noise=0.02)
    noisy, _ = augment(image, None, still, [1, 2])
    spread = (noisy.float() - 128).std(dim=(1, 2, 3))
    assert ((spread > 0.019 * 255) & (spread < 0.021 * 255)).all()
    assert not torch.equal(noisy[0], noisy[1])


def test_the_flip_that_has_to_be_asked_for_mirrors_film_and_boxes() -> None:
    image = torch.zeros((8, 1, 56, 56), dtype=torch.uint8)
    image[:, :, :, :10] = 255
    masks = torch.zeros((8, 1, 28, 28))
    masks[:, :, :, :5] = 1
    flip = Augmentation(
        rotate_deg=0, scale=0, shift=0, contrast=0, brightness=0, noise=0, horizontal_flip=1
    )
    moved, boxes = augment(image, masks, flip, range(8))
    assert torch.equal(moved, image.flip(3))
    assert boxes is not None
    assert torch.equal(boxes, masks.flip(3))
    half = flip.model_copy(update={"horizontal_flip": 0.5})
    moved, _ = augment(image.repeat(8, 1, 1, 1), None, half, range(64))
    assert 20 < int((moved[:, 0, 0, 0] == 0).sum()) < 44
