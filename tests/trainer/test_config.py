"""The configuration: every mistake is named; every key is documented; every example is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hilum.errors import ConfigurationError
from hilum.packages.labels import SYNTHETIC
from tools import tables
from trainer import config
from trainer.cli import train as command

ConfigFile = Callable[..., Path]
ROOT = Path(__file__).parents[2]
_ALPHAS = "".join(f'"{label}" = 0.5\n' for label in SYNTHETIC.labels)


@pytest.mark.parametrize("name", ["demo", "chestxray14", "rehearsal", "train-demo"])
def test_the_examples_are_configurations(name: str) -> None:
    loaded = config.load(ROOT / "configs" / f"{name}.toml")
    assert loaded.stages[-1].size == loaded.preprocess.size, "what ships was trained last"


def test_the_page_has_every_key_as_it_is() -> None:
    page = (ROOT / "docs" / "use" / "training.md").read_text()
    assert page == tables.training_keys(page), "run `make tables`"
    assert all(key.meaning for key in config.list_keys())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "[loss]\ngamma = -1\n"}, r"loss\.gamma"),
        ({"loss": "[loss]\ngama = 1\n"}, r"loss\.gama"),
        ({"loss": "[loss]\nalpha = 1.5\n"}, r"loss\.alpha"),
        ({"loss": "[loss.alpha]\nEffusion = 0.9\n"}, "name every label"),
        ({"stages": "[[stages]]\nepochs = 1\nsize = 96\n"}, r"above preprocess\.size"),
        (
            {"stages": "[[stages]]\nepochs = 1\nsize = 32\n"},
            r"last stage must have the size preprocess\.size",
        ),
        ({"optimiser": "[optimiser]\nbatch_size = 6\naccumulate = 4\n"}, "two films in each part"),
        ({"compute": '[compute]\nprecision = "int8"\n'}, r"compute\.precision"),
        ({"head": "seed = -1\nmanifest = 'm.csv'\n"}, "seed"),
        ({"head": "seed = \n"}, "is not TOML"),
    ],
)
def test_errors_name_the_key(
    config_file: ConfigFile, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config.load(config_file(**changes))


def test_a_loss_that_has_no_meaning_for_the_schema_is_refused(config_file: ConfigFile) -> None:
    model = '[model]\nbackbone = "resnet18"\nweights = "random"\nlabel_schema = "{}"\n'
    asymmetric = '[loss]\nkind = "asymmetric"\n'
    config.load(config_file(model=model.format("chestxray14-v1"), loss=asymmetric))
    with pytest.raises(ConfigurationError, match="multi-label"):
        config.load(config_file(model=model.format("covid-tb-pneumonia-v1"), loss=asymmetric))
    with pytest.raises(ConfigurationError, match="Unknown label schema"):
        config.load(config_file(model=model.format("mine-v1")))


def test_alpha_in_all_its_forms(config_file: ConfigFile) -> None:
    for text in ('alpha = "prevalence"', 'alpha = "effective_numbers"', "alpha = 0.25"):
        config.load(config_file(loss=f"[loss]\n{text}\n"))
    found = config.load(config_file(loss=f"[loss.alpha]\n{_ALPHAS}")).loss.alpha
    assert found == dict.fromkeys(SYNTHETIC.labels, 0.5)


def test_differences_are_those_that_decide_what_comes_out(config_file: ConfigFile) -> None:
    one = config.load(config_file())
    other = config.load(
        config_file(
            stages="[[stages]]\nepochs = 3\nsize = 64\n", tracking="[tracking]\nmlflow = 'x'\n"
        )
    )
    assert config.differences(one, one) == []
    assert "stages.0.epochs" in config.differences(one, other)
    assert not any(name.startswith("tracking") for name in config.differences(one, other))


def test_help_is_a_manual_and_keys_explain_themselves() -> None:
    for arguments in (["--help"], []):
        text = CliRunner().invoke(command, arguments, prog_name="hilum train").output
        for word in ("CONFIG", "--resume", "torchrun", "best/", "EXIT CODES", "keys"):
            assert word in text
    text = CliRunner().invoke(command, ["keys"]).output
    assert "optimiser.accumulate  (1)" in text
    assert "model.weights  (required)" in text
    unknown = CliRunner().invoke(command, ["nowhere.toml", "--to", "x"])
    assert unknown.exit_code == 2
    assert "does not exist" in unknown.output
