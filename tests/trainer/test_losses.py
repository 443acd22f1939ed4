"""Losses against values computed by hand, at any magnitude, with labels missing."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.losses import focal_sigmoid, focal_softmax

NAN = math.nan


def _by_hand(logit: float, target: int, gamma: float, alpha: float | None) -> float:
    """Lin et al. 2017, equation 5, literally."""
    p = 1 / (1 + math.exp(-logit))
    p_t = p if target else 1 - p
    weight = 1.0 if alpha is None else (alpha if target else 1 - alpha)
    return -weight * (1 - p_t) ** gamma * math.log(p_t)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.7])
def test_equation_5(logit: float, target: int, gamma: float, alpha: float | None) -> None:
    found = focal_sigmoid(
        torch.tensor([[logit]]),
        torch.tensor([[float(target)]]),
        gamma=gamma,
        alpha=None if alpha is None else torch.tensor([alpha]),
    )
    assert found.item() == pytest.approx(_by_hand(logit, target, gamma, alpha), rel=1e-5)


def test_gamma_zero_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 5), torch.randint(0, 2, (8, 5)).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(focal_sigmoid(logits, targets, gamma=0.0), plain)
    classes = torch.randint(0, 5, (8,))
    hot = torch.nn.functional.one_hot(classes, 5).float()
    expected = torch.nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(focal_softmax(logits, hot, gamma=0.0), expected)


def test_easy_examples_count_less_than_in_cross_entropy() -> None:
    easy, hard = torch.tensor([[4.0]]), torch.tensor([[-1.0]])
    one = torch.ones(1, 1)
    ratio = focal_sigmoid(easy, one, gamma=2.0) / focal_sigmoid(hard, one, gamma=2.0)
    plain = focal_sigmoid(easy, one, gamma=0.0) / focal_sigmoid(hard, one, gamma=0.0)
    assert ratio < 0.01 * plain


@pytest.mark.parametrize("logit", [-1e4, -80.0, 80.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_finite_at_any_magnitude(logit: float, target: float) -> None:
    for function in (focal_sigmoid, focal_softmax):
        logits = torch.tensor([[logit, 0.0]], requires_grad=True)
        loss = function(logits, torch.tensor([[target, 1 - target]]), gamma=2.0)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_gradient_is_that_of_the_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, NAN, 1], [0, 0, 1, 1], [NAN, 1, 0, 0]], dtype=torch.float64)
    alpha = torch.tensor([0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: focal_sigmoid(z, targets, gamma=2.0, alpha=alpha), (logits,)
    )


def test_unknown_labels_neither_count_nor_teach() -> None:
    logits = torch.tensor([[0.3, -0.2], [1.0, 2.0]], requires_grad=True)
    targets = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    loss = focal_sigmoid(logits, targets, gamma=2.0)
    expected = (_by_hand(0.3, 1, 2, None) + _by_hand(2.0, 0, 2, None)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]
    nothing = torch.full((2, 2), NAN)
    assert focal_sigmoid(logits, nothing, gamma=2.0).item() == 0
    assert focal_softmax(logits, nothing, gamma=2.0).item() == 0
