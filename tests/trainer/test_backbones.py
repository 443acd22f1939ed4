"""Backbones against torchvision's own forward pass, and what of them learns how fast."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from trainer import objective as optimisation
from trainer.backbones import BACKBONES, Classifier, build, heads, set_prior_bias
from trainer.config import LossConfig, Stage
from trainer.objective import Objective

# torchvision's documentation of every model's inference transform.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
_SIZES = {"alexnet": 64, "resnet18": 64, "inception_v3": 96}


@pytest.fixture(scope="module", params=list(_SIZES))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Classifier]:
    """torchvision's model as its pretrained weights come, and ours from the same state."""
    name = request.param
    torch.manual_seed(0)
    # With weights, inception_v3() switches its input transform on.
    extra = {"transform_input": True, "init_weights": False} if name == "inception_v3" else {}
    net = BACKBONES[name].build(weights=None, **extra).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # else all statistics are 0 and 1
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net, build(name, 5, state=net.state_dict()).eval()


def test_the_same_numbers_as_torchvision(pair: tuple[nn.Module, Classifier]) -> None:
    net, model = pair
    size = _SIZES[model.name]
    image = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    weight = torch.randn(5, model.head.linear.in_features)
    with torch.no_grad():
        model.head.linear.weight.copy_(weight)
        model.head.linear.bias.zero_()
        theirs = nn.Linear(weight.shape[1], 5)
        theirs.weight.copy_(weight)
        theirs.bias.zero_()
        if model.name == "alexnet":
            net.classifier[6] = theirs  # type: ignore[index, operator]
        else:
            net.fc = theirs
        expected = net((image.expand(-1, 3, -1, -1) / 255 - _MEAN) / _STD)
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)


def test_the_auxiliary_head_is_new_and_hangs_where_it_did(
    pair: tuple[nn.Module, Classifier],
) -> None:
    net, model = pair
    small = torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8)
    if model.auxiliary is None:
        with torch.no_grad():
            assert model.forward_training(small)[2] is None
        assert len(heads(model)) == 1
        return
    assert isinstance(net, models.Inception3)
    net.AuxLogits.fc = model.auxiliary.fc
    seen: list[Tensor] = []
    net.Mixed_6e.register_forward_hook(lambda *found: seen.append(net.AuxLogits(found[2])))
    image = torch.randint(0, 256, (1, 1, 299, 299), dtype=torch.uint8)
    with torch.no_grad():
        net((image.expand(-1, 3, -1, -1) / 255 - _MEAN) / _STD)
        auxiliary = model.forward_training(image)[2]
        assert auxiliary is not None
        torch.testing.assert_close(auxiliary, seen[0], rtol=1e-4, atol=1e-4)
        # torchvision's own breaks at sizes that an ablation on small inputs runs at.
        auxiliary = model.forward_training(small)[2]
        assert auxiliary is not None
        assert auxiliary.shape == (2, 5)
    assert [head.out_features for head in heads(model)] == [5, 5]


def test_the_bias_starts_at_the_prevalence(pair: tuple[nn.Module, Classifier]) -> None:
    _, model = pair
    prevalence = torch.tensor([0.002, 0.177, 0.5, 0.9, 0.0])
    set_prior_bias(model, prevalence, "multi_label")
    for head in heads(model):
        # An activation of nothing gives the prevalence itself; one never seen, 1 in 10,000.
        expected = [0.002, 0.177, 0.5, 0.9, 1e-4]
        assert head.bias.sigmoid().tolist() == pytest.approx(expected, rel=1e-4)
    set_prior_bias(model, torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]), "multi_class")
    found = model.head.linear.bias.softmax(dim=0).tolist()
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.15, 0.25], rel=1e-4)


def test_layers_learn_more_slowly_the_farther_they_are_from_the_head(
    pair: tuple[nn.Module, Classifier],
) -> None:
    _, model = pair
    objective = Objective(model, LossConfig(), "multi_label", None)
    stage = Stage(epochs=1, size=96, learning_rate=1e-2, backbone_scale=0.1, layer_decay=0.5)
    groups = optimisation.groups(objective, stage, 0.02)
    rate = {id(p): group["peak"] for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert set(rate) == {id(p) for p in parameters.values()}, "each once, none forgotten"
    assert sum(len(group["params"]) for group in groups) == len(parameters)
    assert all(rate[id(p)] == 1e-2 for head in heads(model) for p in head.parameters())
    blocks = {"alexnet": 7, "resnet18": 5, "inception_v3": 16}[model.name]
    body = sorted({value for value in rate.values() if value < 1e-2})
    assert body == pytest.approx([1e-3 * 0.5**n for n in reversed(range(blocks))])
    first = next(model.features.parameters())
    assert rate[id(first)] == min(body)
    for group in groups:
        flat = {p.ndim <= 1 for p in group["params"]}
        assert flat == {group["weight_decay"] == 0}, "biases and normalisation are not decayed"

    frozen = stage.model_copy(update={"backbone_scale": 0.0})
    groups = optimisation.groups(objective, frozen, 0.02)
    learning = {id(p) for group in groups for p in group["params"]}
    assert learning == {id(p) for head in heads(model) for p in head.parameters()}
    assert {id(p) for p in parameters.values() if p.requires_grad} == learning
    optimisation.set_modes(objective, frozen)
    still = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in still), "frozen features keep their statistics"
    assert model.head.training
    optimisation.set_modes(objective, stage)
    assert all(m.training for m in still)


def test_the_schedule_warms_up_and_falls_to_nothing() -> None:
    from trainer.config import OptimiserConfig

    config = OptimiserConfig(warmup=0.2)
    found = [optimisation.schedule(step, 10, config) for step in range(11)]
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[6] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert found[10] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(found[1:]))
