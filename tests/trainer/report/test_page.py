"""The command, from a model to its page."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support import tiny_package

from hilum.packages.labels import SYNTHETIC
from hilum.settings import Settings
from trainer import manifest
from trainer.cli import train as command
from trainer.evaluation import evaluate as evaluation
from trainer.evaluation import scorer
from trainer.manifest import Box, Record

SIDE = 64
Evaluate = Callable[..., Result]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 films, 30 patients, both views; a bright square is an effusion. Names tell on patients."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    records = []
    for n in range(60):
        effusion = bool(rng.integers(2))
        pixels = rng.normal(90, 12, (SIDE, SIDE))
        pixels[36:56, 4:24] += 90 * effusion
        name = f"DOE^JANE-{n:03d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        boxes = (Box(label="Effusion", x0=4, y0=36, x1=24, y1=56),) if effusion else ()
        records.append(
            Record(
                uri=name,
                patient=f"MRN-{n // 2:05d}",
                split="val" if n < 24 else "test",
                targets=(float(n % 3 == 0), float(effusion), 0.0, 0.0, 0.0, float(not effusion)),
                boxes=boxes,
                view="AP" if n % 4 < 2 else "PA",
                sex="F" if n % 8 < 4 else "M",
                age=float(n),
            )
        )
    path = folder / "manifest.csv"
    manifest.write(path, records, SYNTHETIC)
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "tiny"
    tiny_package.build(folder, size=SIDE)
    return folder


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    monkeypatch.setenv("HILUM_CACHE_DIR", str(tmp_path / "cache"))

    def run(*args: object) -> Result:
        given = ["evaluate", *map(str, args), "--to", str(tmp_path / "out"), "--replicates", "100"]
        return CliRunner().invoke(command, given)

    return run


def test_a_package_as_it_is_served(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    done = evaluate(package, "--manifest", films)
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == tmp_path / "out" / "report.html"
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["calibration"]["fitted_on"] == "as shipped"
    assert "validation" not in figures
    assert figures["test"]["images"] == 36
    effusion = figures["test"]["labels"]["Effusion"]
    assert (effusion["threshold"], effusion["rule"]) == (0.5, "fixed")
    assert effusion["pointing_images"] == effusion["positives"] > 0
    corners = figures["corners"]["labels"]["Effusion"]
    assert corners["whole"] == effusion["auroc"]
    assert None not in corners.values()
    assert figures["test"]["labels"]["Pneumothorax"]["auroc"] is None


class _Page(HTMLParser):
    """What a page asks for from elsewhere, and whether its tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"} and value:
                self.addresses.append(value)
        assert tag not in {"script", "link", "iframe", "object"}
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_names_nobody(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    assert evaluate(package, "--manifest", films, "--gallery", 5).exit_code == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert all(address.startswith(("#", "data:image/jpeg")) for address in page.addresses)
    assert sum(address.startswith("data:") for address in page.addresses) == 5
    # Namespaces are names; everything else with an address would be fetched.
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "url(http" not in text
    for private in ("DOE^JANE", "MRN-0", str(films.parent)):
        assert private not in text
        assert private not in (tmp_path / "out" / "metrics.json").read_text()
    assert text.count("<svg") == 3 * 3 + 3 * 1 + 3, "three labels have both classes, three have not"
    assert "demonstration only" in text


def test_chosen_operating_points_come_from_validation(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    rule = "sensitivity>=0.90"
    args = ("--operating-point", rule, "--calibration", "temperature", "--gallery", 0)
    done = evaluate(package, "--manifest", films, *args, "--no-shortcuts")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["calibration"]["method"] == "temperature"
    assert "corners" not in figures
    effusion = figures["validation"]["labels"]["Effusion"]
    assert effusion["rule"] == rule
    assert effusion["sensitivity"] >= 0.9
    assert figures["test"]["labels"]["Effusion"]["threshold"] == effusion["threshold"]
    # Validation says nothing of a nodule: no threshold, so neither hits nor misses.
    nodule = figures["test"]["labels"]["Nodule/Mass"]
    assert (nodule["rule"], nodule["threshold"]) == ("undefined on validation", 1.0)
    assert (nodule["specificity"], nodule["npv"], nodule["confusion"]) == (None, None, None)
    assert "data:image" not in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_evaluated(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    nothing = tmp_path / "empty"
    nothing.mkdir()
    only_test = tmp_path / "only-test.csv"
    records = [r for r in manifest.read(films, SYNTHETIC) if r.split == "test"]
    here = [dataclasses.replace(r, uri=str(films.parent / r.uri)) for r in records]
    manifest.write(only_test, here, SYNTHETIC)
    for args, code in (
        ((package,), "data.invalid"),
        ((nothing, "--manifest", films), "train.bad_checkpoint"),
        ((package, "--manifest", tmp_path / "no.csv"), "data.invalid"),
        ((package, "--manifest", films, "--operating-point", "recall"), "config.invalid"),
        ((package, "--manifest", only_test, "--operating-point", "youden"), "data.invalid"),
    ):
        found = evaluate(*args)
        assert found.exit_code != 0
        assert getattr(found.exception, "code", None) == code, args
    assert not (tmp_path / "out").exists()
    # What ships its own points needs no validation split.
    assert evaluate(package, "--manifest", only_test, "--no-shortcuts").exit_code == 0


def test_a_report_that_cannot_be_written(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("precious")

    def scored(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("said before anything is scored")

    monkeypatch.setattr(scorer, "run", scored)
    done = evaluate(package, "--manifest", films)
    assert getattr(done.exception, "code", None) == "train.output_write"
    assert (tmp_path / "out").read_text() == "precious"


def test_figures_of_the_films_something_was_fitted_on_say_so(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    args = (package, "--manifest", films, "--gallery", 0, "--no-shortcuts")
    told = {}
    for more in (("--split", "val", "--operating-point", "youden"), ("--split", "val"), ()):
        assert evaluate(*args, *more).exit_code == 0
        figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
        text = (tmp_path / "out" / "report.html").read_text()
        told[len(more)] = (figures["in_sample"], "In-sample:" in text)
    # As it is served nothing was fitted here.
    assert told == {4: (True, True), 2: (False, False), 0: (False, False)}


def test_films_that_cannot_be_used_are_allowed_for_and_counted(
    evaluate: Evaluate, package: Path, films: Path, tmp_path: Path
) -> None:
    records = [dataclasses.replace(r, uri=str(films.parent / r.uri)) for r in _read(films)]
    records[-1] = dataclasses.replace(records[-1], uri=str(tmp_path / "gone.png"))
    listed = tmp_path / "listed.csv"
    manifest.write(listed, records, SYNTHETIC)
    args = (package, "--manifest", listed, "--gallery", 0, "--no-shortcuts")
    refused = evaluate(*args)
    assert getattr(refused.exception, "code", None) == "data.bad_images"
    assert evaluate(*args, "--max-bad-fraction", 0.1).exit_code == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["data"]["listed"], figures["data"]["left_out"]) == (36, 1)
    assert figures["test"]["images"] == 35
    assert "36 films, of which 1 could not be used" in (tmp_path / "out/report.html").read_text()


def _read(path: Path) -> list[Record]:
    return list(manifest.read(path, SYNTHETIC))


def test_weights_know_the_films_they_were_trained_on(package: Path, tmp_path: Path) -> None:
    model = scorer.open_model(str(package), Settings(cache_dir=tmp_path))
    assert model.max_bad_fraction is None
    mine = dataclasses.replace(model, manifest_path=Path("mine.csv"), points=None)
    assert evaluation._in_sample(mine, None, "train", fits=True)
    assert not evaluation._in_sample(mine, Path("other.csv"), "train", fits=True)
    assert not evaluation._in_sample(mine, None, "test", fits=True)
