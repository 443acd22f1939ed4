"""One step at a time: what the learner does to the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hilum.errors import ConfigurationError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from trainer import config, data
from trainer.backbones import build
from trainer.config import LossConfig, TrainConfig
from trainer.feed import Feed
from trainer.learner import Learner
from trainer.losses import Loss
from trainer.objective import Objective
from trainer.processes import Processes

ConfigFile = Callable[..., Path]

_ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def _config(config_file: ConfigFile, size: int = 32, **optimiser: object) -> TrainConfig:
    keys = {"batch_size": 12} | optimiser
    return config.load(
        config_file(
            preprocess=f"[preprocess]\nsize = {size}\n",
            loss="[loss]\ngamma = 1.0\n",
            optimiser="[optimiser]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()),
            stages=f"[[stages]]\nepochs = 1\nsize = {size}\nlearning_rate = 1e-2\n",
        )
    )


def _films(dataset: Path, cache: Path, size: int) -> data.SplitFilms:
    spec = PreprocessSpec(size=size)
    return data.load(dataset, SYNTHETIC, spec, cache_dir=cache)["train"]


def _learner(parsed: TrainConfig, films: data.SplitFilms, backbone: str = "tiny") -> Learner:
    torch.manual_seed(3)
    learner = Learner(
        parsed,
        model=build(backbone, len(SYNTHETIC.labels)),
        split=films,
        schema=SYNTHETIC,
        alpha=None,
        processes=_ALONE,
    )
    learner.enter(0)
    return learner


def _gradient(learner: Learner) -> torch.Tensor:
    found = [p.grad for p in learner.objective.parameters()]
    return torch.cat([gradient.flatten().double() for gradient in found if gradient is not None])


def test_the_running_average_is_that_of_a_loop_by_hand(
    config_file: ConfigFile, dataset: Path, tmp_path: Path
) -> None:
    parsed = _config(config_file, ema_decay=0.9)
    learner = _learner(parsed, _films(dataset, tmp_path, 32))
    own = learner.objective.model.state_dict()
    expected = {name: value.clone() for name, value in own.items()}
    start = {name: value.clone() for name, value in own.items()}
    steps = 0
    for _ in learner.epoch(0, 0, 0):
        steps += 1
        for name, value in own.items():
            if value.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * value
            else:
                expected[name] = value.clone()
    learner.feed.close()
    assert steps == 3
    kept = learner.averaged.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-5, atol=1e-7)
    # Neither what it began with nor what the optimiser has reached.
    moved = "features.0.weight"
    assert not torch.allclose(kept[moved], start[moved], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(kept[moved], own[moved], rtol=1e-3, atol=1e-5)


def test_the_gradient_is_cut_to_its_norm(
    config_file: ConfigFile, dataset: Path, tmp_path: Path
) -> None:
    films = _films(dataset, tmp_path, 32)
    found = {}
    for clip in (1e9, 1e-3):
        learner = _learner(_config(config_file, clip_norm=clip), films)
        next(learner.epoch(0, 0, 0))
        learner.feed.close()
        found[clip] = _gradient(learner)
    assert found[1e9].norm() > 0.01
    assert found[1e-3].norm().item() == pytest.approx(1e-3, rel=1e-3)
    cosine = torch.cosine_similarity(found[1e9], found[1e-3], dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-4), "shorter, not another direction"


def test_the_second_head_of_inception_counts_as_much_as_it_is_told() -> None:
    torch.manual_seed(0)
    model = build("inception_v3", 5).train()
    images = torch.randint(0, 256, (3, 1, 96, 96), dtype=torch.uint8)
    targets = (torch.rand(3, 5) < 0.4).float()
    targets[0, 1] = float("nan")
    asked = LossConfig(gamma=2.0, auxiliary_weight=0.3)
    objective, loss = Objective(model, asked, "multi_label", None), Loss(asked, "multi_label", None)
    known = loss.known(targets)
    with torch.no_grad():
        torch.manual_seed(1)  # dropout
        found = objective(images, targets, known, None, None)
        torch.manual_seed(1)
        logits, _, auxiliary = model.forward_training(images)
        assert auxiliary is not None
        main, second = loss(logits, targets, known), loss(auxiliary, targets, known)
    assert second > 0
    torch.testing.assert_close(found, main + 0.3 * second)


@pytest.mark.parametrize(("backbone", "size"), [("alexnet", 64), ("inception_v3", 80)])
def test_a_step_of_the_other_backbones(
    config_file: ConfigFile, dataset: Path, tmp_path: Path, backbone: str, size: int
) -> None:
    parsed = _config(config_file, size=size, batch_size=4)
    learner = _learner(parsed, _films(dataset, tmp_path, size), backbone)
    before = {n: p.detach().clone() for n, p in learner.objective.named_parameters()}
    _, loss = next(learner.epoch(0, 0, 0))
    learner.feed.close()
    assert np.isfinite(loss)
    still = [n for n, p in learner.objective.named_parameters() if torch.equal(p, before[n])]
    # A bias before batch normalisation has no gradient; every weight learns, both heads' too.
    assert not [name for name in still if name.endswith("weight")]


def test_a_run_that_would_take_no_step_is_refused(
    config_file: ConfigFile, dataset: Path, tmp_path: Path
) -> None:
    films = _films(dataset, tmp_path, 32)
    parsed = _config(config_file)
    six, seven = (Processes(rank=0, count=n, device=torch.device("cpu")) for n in (6, 7))
    Feed(films, SYNTHETIC, parsed, six).close()
    with pytest.raises(ConfigurationError, match=r"batch_size 12 is less than two .* of 7 parts"):
        Feed(films, SYNTHETIC, parsed, seven)
    few = data.SplitFilms(
        images=films.images[:3],
        targets=films.targets[:3],
        records=films.records[:3],
        sizes=films.sizes[:3],
    )
    two = Processes(rank=1, count=2, device=torch.device("cpu"))
    Feed(few, SYNTHETIC, parsed, _ALONE).close()
    with pytest.raises(ConfigurationError, match="has 3 films: too few for one step"):
        Feed(few, SYNTHETIC, parsed, two)
