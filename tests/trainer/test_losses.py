"""Losses against values computed by hand, at any magnitude, with labels missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hilum.packages.labels import COVID_TB_PNEUMONIA, SYNTHETIC
from trainer import balance
from trainer.config import LossConfig
from trainer.errors import DataError
from trainer.losses import Loss, sigmoid_loss, softmax_loss

NAN = math.nan


def focal_sigmoid(
    logits: torch.Tensor, targets: torch.Tensor, *, gamma: float, alpha: torch.Tensor | None = None
) -> torch.Tensor:
    """The focal loss: one γ for both terms."""
    return sigmoid_loss(logits, targets, gamma_positive=gamma, gamma_negative=gamma, alpha=alpha)


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
    torch.testing.assert_close(softmax_loss(logits, hot, gamma=0.0), expected)


def test_easy_examples_count_less_than_in_cross_entropy() -> None:
    easy, hard = torch.tensor([[4.0]]), torch.tensor([[-1.0]])
    one = torch.ones(1, 1)
    ratio = focal_sigmoid(easy, one, gamma=2.0) / focal_sigmoid(hard, one, gamma=2.0)
    plain = focal_sigmoid(easy, one, gamma=0.0) / focal_sigmoid(hard, one, gamma=0.0)
    assert ratio < 0.01 * plain


@pytest.mark.parametrize("logit", [-1e4, -80.0, 80.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_finite_at_any_magnitude(logit: float, target: float) -> None:
    for function in (focal_sigmoid, softmax_loss):
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
    assert softmax_loss(logits, nothing, gamma=2.0).item() == 0


def test_asymmetric_literally() -> None:
    """Ridnik et al. 2021, equations 4 to 7."""

    def by_hand(logit: float, target: int, plus: float, minus: float, margin: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        if target:
            return -((1 - p) ** plus) * math.log(p)
        shifted = max(p - margin, 0)
        return -(shifted**minus) * math.log(1 - shifted)

    for logit in (-4.0, -3.0, -0.4, 0.0, 1.2, 5.0):
        for target in (0, 1):
            for plus, minus, margin in ((0.0, 4.0, 0.05), (1.0, 4.0, 0.2), (0.0, 2.0, 0.0)):
                found = sigmoid_loss(
                    torch.tensor([[logit]], dtype=torch.float64),
                    torch.tensor([[float(target)]], dtype=torch.float64),
                    gamma_positive=plus,
                    gamma_negative=minus,
                    margin=margin,
                )
                expected = by_hand(logit, target, plus, minus, margin)
                assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_asymmetric_without_focus_or_margin_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 5), torch.randint(0, 2, (8, 5)).float()
    targets[0, 0] = NAN
    found = sigmoid_loss(logits, targets, gamma_positive=0, gamma_negative=0, margin=0)
    torch.testing.assert_close(found, focal_sigmoid(logits, targets, gamma=0.0))


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("logit", [-1e4, -80.0, 0.0, 80.0, 1e4])
def test_asymmetric_is_finite_at_any_magnitude(logit: float, margin: float) -> None:
    logits = torch.tensor([[logit, -logit]], requires_grad=True)
    loss = sigmoid_loss(
        logits, torch.tensor([[1.0, 0.0]]), gamma_positive=1, gamma_negative=0.5, margin=margin
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(7, 3), torch.randint(0, 2, (7, 3)).float()
    targets[1] = NAN
    targets[5, 2] = NAN
    loss = Loss(LossConfig(alpha=0.3), "multi_label", torch.full((3,), 0.3))
    total = loss.known(targets)
    assert total == 7 * 3 - 4
    parts = [loss(logits[rows], targets[rows], total) for rows in (slice(0, 2), slice(2, 7))]
    torch.testing.assert_close(parts[0] + parts[1], loss(logits, targets))


def test_each_kind_is_what_its_name_says() -> None:
    torch.manual_seed(2)
    logits, targets = torch.randn(16, 6), torch.randint(0, 2, (16, 6)).float()
    counts = balance.count(targets.numpy(), SYNTHETIC)

    def found(**keys: object) -> torch.Tensor:
        config = LossConfig.model_validate(keys)
        alpha = balance.alpha(config, counts, SYNTHETIC)
        value: torch.Tensor = Loss(config, "multi_label", alpha)(logits, targets)
        return value

    function = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(found(kind="bce", alpha=0.7), function(logits, targets))
    # Wang et al. 2017: positives weigh |N|/(|P| + |N|), negatives |P|/(|P| + |N|).
    share = targets.mean(dim=0)
    weights = torch.where(targets == 1, 1 - share, share)
    expected = function(logits, targets, weight=weights)
    torch.testing.assert_close(found(kind="weighted_bce"), expected)
    torch.testing.assert_close(
        found(kind="focal", gamma=1.5, alpha=0.25),
        focal_sigmoid(logits, targets, gamma=1.5, alpha=torch.full((6,), 0.25)),
    )
    given = dict.fromkeys(SYNTHETIC.labels, 0.5) | {"Effusion": 0.9}
    weights = torch.full((6,), 0.5)
    weights[SYNTHETIC.index("Effusion")] = 0.9
    torch.testing.assert_close(
        found(alpha=given), focal_sigmoid(logits, targets, gamma=2.0, alpha=weights)
    )


def test_alpha_from_effective_numbers() -> None:
    """Cui et al. 2019, equations 2 and 3, summed term by term."""
    targets = np.zeros((2000, 6), dtype=np.float32)
    positives = (4, 40, 400, 1000, 1960, 1)
    for k, n in enumerate(positives):
        targets[:n, k] = 1
    counts = balance.count(targets, SYNTHETIC)

    def effective(n: int, beta: float) -> float:
        return sum(beta**j for j in range(n))

    for beta in (0.9, 0.999):
        config = LossConfig(alpha="effective_numbers", beta=beta)
        found = balance.alpha(config, counts, SYNTHETIC)
        assert found is not None
        for n, value in zip(positives, found.tolist(), strict=True):
            plus, minus = 1 / effective(n, beta), 1 / effective(2000 - n, beta)
            assert value == pytest.approx(plus / (plus + minus), rel=1e-5)
    # Its two ends: nothing, and the prevalence.
    none = balance.alpha(LossConfig(alpha="effective_numbers", beta=0.0), counts, SYNTHETIC)
    assert none is not None
    torch.testing.assert_close(none, torch.full((6,), 0.5))
    near = balance.alpha(LossConfig(alpha="effective_numbers", beta=1 - 1e-9), counts, SYNTHETIC)
    all_of_it = balance.alpha(LossConfig(alpha="prevalence"), counts, SYNTHETIC)
    assert near is not None
    assert all_of_it is not None
    torch.testing.assert_close(near, all_of_it, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(all_of_it, 1 - counts.prevalence)


def test_alpha_of_exclusive_classes() -> None:
    classes = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    targets = np.eye(4, dtype=np.float32)[classes]
    counts = balance.count(targets, COVID_TB_PNEUMONIA)
    found = balance.alpha(LossConfig(alpha="prevalence"), counts, COVID_TB_PNEUMONIA)
    assert found is not None
    assert found.mean().item() == pytest.approx(1)
    # Every class weighs the same in sum.
    assert (found * counts.prevalence).tolist() == pytest.approx([found[0].item() * 0.5] * 4)
    torch.manual_seed(3)
    logits = torch.randn(100, 4)
    loss = Loss(LossConfig(kind="weighted_bce"), "multi_class", found)
    expected = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(classes), weight=found, reduction="sum"
    )
    torch.testing.assert_close(loss(logits, torch.from_numpy(targets)), expected / 100)


def test_soft_and_missing_labels_are_counted_as_what_they_are() -> None:
    targets = np.array([[1, 0.5, 0, 1, 0, 0], [NAN, 0.5, 0, 0, 0, 1]], dtype=np.float32)
    counts = balance.count(targets, SYNTHETIC)
    assert counts.prevalence.tolist() == [1, 0.5, 0, 0.5, 0, 0.5]
    targets[0, 0] = NAN
    with pytest.raises(DataError, match="has no known value of Cardiomegaly"):
        balance.count(targets, SYNTHETIC)
