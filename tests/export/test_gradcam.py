"""The closed form is Grad-CAM: equal to autograd for every backbone and label."""

from __future__ import annotations

import pytest
import torch
from support.backbones import DISTINCT, LABELS, images, model

from benchmarks.autograd_cam import one_label
from hilum.packages.labels import HeadKind
from trainer.backbones import BACKBONES, build
from trainer.gradcam import WithMaps


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "multi_label") for name in DISTINCT]
    # The kind of head decides the probability only; one backbone of each kind of head shows it.
    + [("alexnet", "multi_class"), ("resnet18", "multi_class"), ("inception_v3", "multi_class")],
)
def test_every_map_equals_autograd(name: str, kind: HeadKind) -> None:
    image = images(name, 2)
    with torch.no_grad():
        probability, cam = WithMaps(model(name), kind)(image)
    grid = BACKBONES[name].grid
    assert cam.shape == (2, LABELS, grid, grid)
    for label in range(LABELS):
        logits, expected = one_label(model(name), image, label)
        difference = (cam[:, label] - expected).abs().max() / expected.abs().max()
        assert expected.max() > 0, "an empty map would prove nothing"
        assert difference <= 1e-5
    normed = logits.sigmoid() if kind == "multi_label" else logits.softmax(dim=1)
    torch.testing.assert_close(probability, normed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 180), ("alexnet", 320), ("resnet18", 320)])
def test_other_input_sizes(name: str, size: int) -> None:
    """Pooling keeps the sum of the gradient whatever the size, so the closed form holds."""
    torch.manual_seed(1)
    net = build(name, 3).eval()
    image = torch.randint(0, 256, (1, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        _, cam = WithMaps(net, "multi_label")(image)
    for label in range(3):
        _, expected = one_label(net, image, label)
        scale = max(float(expected.max()), 1e-6)
        assert float((cam[:, label] - expected).abs().max()) / scale <= 1e-5


def test_labels_have_maps_of_their_own() -> None:
    with torch.no_grad():
        _, cam = WithMaps(model("resnet18"), "multi_label")(images("resnet18", 1))
    flat = cam[0].flatten(1)
    assert len(torch.unique(flat, dim=0)) == LABELS
