"""The whole evaluation of a split whose properties are known."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from hilum.imaging.transform import Placement
from hilum.packages.labels import CHESTXRAY14, SYNTHETIC
from hilum.packages.manifest import OperatingPoint
from trainer import calibration
from trainer.evaluation import published, shortcuts
from trainer.evaluation.assess import assess
from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.scored import Scored
from trainer.evaluation.subgroups import age_band
from trainer.manifest import Record

FEW = Bootstrap(replicates=60)


@pytest.fixture(scope="module")
def found(scored: Scored) -> dict[str, Any]:
    return assess(scored, FEW)


def test_figures_are_those_of_scikit_learn(scored: Scored, found: dict[str, Any]) -> None:
    columns = list(scored.findings)
    defined = [k for k in columns if scored.schema.labels[k] != "Pneumothorax"]
    for k in defined:
        target, probability = scored.targets[:, k], scored.probability[:, k]
        figures = found["labels"][scored.schema.labels[k]]
        assert figures["auroc"] == pytest.approx(sk.roc_auc_score(target, probability))
        assert figures["f1"] == pytest.approx(sk.f1_score(target, probability >= 0.6))
        tn, fp, fn, tp = sk.confusion_matrix(target, probability >= 0.6).ravel()
        assert figures["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
        assert figures["brier"] == pytest.approx(sk.brier_score_loss(target, probability))
        low, high = figures["auroc_interval"]
        assert low < figures["auroc"] < high
    pooled = scored.targets[:, columns], scored.probability[:, columns]
    assert found["micro"]["auroc"] == pytest.approx(sk.roc_auc_score(*pooled, average="micro"))
    assert found["micro"]["f1"] == pytest.approx(
        sk.f1_score(pooled[0], pooled[1] >= 0.6, average="micro")
    )
    expected = sk.average_precision_score(
        scored.targets[:, defined], scored.probability[:, defined], average="macro"
    )
    assert found["macro"]["average_precision"] == pytest.approx(expected)


def test_an_absent_label_is_undefined_in_every_figure(found: dict[str, Any]) -> None:
    figures = found["labels"]["Pneumothorax"]
    names = ("auroc", "average_precision", "sensitivity", "f1", "pointing_game", "iou")
    assert [figures[name] for name in names] == [None] * len(names)
    assert figures["auroc_interval"] is None
    assert figures["specificity"] is not None
    assert found["macro_defined"] == 4
    assert "NaN" not in json.dumps(found)


def test_without_an_operating_point_nothing_is_called_or_missed(
    scored: Scored, found: dict[str, Any]
) -> None:
    """Validation had no effusion, and no threshold for the nodule: undefined, never 0 or 1."""
    given = OperatingPoint(threshold=0.6, rule="youden", sensitivity=0.5, specificity=0.5)
    points = dict.fromkeys(SYNTHETIC.labels, given)
    nobody = np.zeros(len(scored))
    effusion = calibration.operating_point(nobody, scored.probability[:, 0])
    points["Effusion"] = effusion
    points["Nodule/Mass"] = OperatingPoint(threshold=1.0, rule="ppv>=0.99: out of reach on val…")
    assert effusion.threshold == 1, "serving calls nothing"
    without = dataclasses.replace(scored, points=points, chosen=True)
    figures = assess(without, FEW)
    labels, names = figures["labels"], ("sensitivity", "specificity", "ppv", "npv", "f1")
    for label in ("Effusion", "Nodule/Mass"):
        for name in names:
            assert labels[label][name] is None
            assert labels[label][f"{name}_interval"] is None
        assert labels[label]["confusion"] is None
        assert labels[label]["auroc"] == found["labels"][label]["auroc"]
    rest = ("Cardiomegaly", "Pneumothorax", "Consolidation")
    kept = [labels[label]["f1"] for label in rest if labels[label]["f1"] is not None]
    assert figures["macro"]["f1"] == pytest.approx(np.mean(kept))
    columns = [SYNTHETIC.index(label) for label in rest]
    pooled = scored.targets[:, columns], scored.probability[:, columns] >= 0.6
    assert figures["micro"]["f1"] == pytest.approx(sk.f1_score(*pooled, average="micro"))
    assert figures["micro"]["auroc"] == found["micro"]["auroc"]
    k = SYNTHETIC.index("Effusion")
    assert {row[k] for row in figures["co_occurrence"]["called"]} == {None}
    told = figures["subgroups"]["sex"]["F"]["labels"]["Effusion"]
    assert told["specificity"] is None
    assert "NaN" not in json.dumps(figures)
    # A fixed threshold has no sensitivity either, and is measured.
    assert found["labels"]["Effusion"]["sensitivity"] is not None
    none = dict.fromkeys(SYNTHETIC.labels, effusion)
    nothing = assess(dataclasses.replace(scored, points=none, chosen=True), FEW)
    assert nothing["macro"]["f1"] is nothing["micro"]["f1"] is nothing["micro"]["npv"] is None


def test_maps_beside_their_baselines(found: dict[str, Any]) -> None:
    effusion, nodule = found["labels"]["Effusion"], found["labels"]["Nodule/Mass"]
    assert effusion["pointing_game"] == 1
    assert nodule["pointing_game"] == 0
    assert (effusion["pointing_centre"], nodule["pointing_centre"]) == (0, 0)
    assert effusion["iou"] > effusion["iou_centre"]
    assert found["macro"]["pointing_game"] == 0.5


def test_subgroups_add_up(scored: Scored, found: dict[str, Any]) -> None:
    assert set(found["subgroups"]) == {"view", "sex", "age", "site"}
    for groups in found["subgroups"].values():
        assert sum(group["images"] for group in groups.values()) == len(scored)
    women = [n for n, record in enumerate(scored.records) if record.sex == "F"]
    k = SYNTHETIC.index("Effusion")
    expected = sk.roc_auc_score(scored.targets[women, k], scored.probability[women, k])
    told = found["subgroups"]["sex"]["F"]["labels"]["Effusion"]
    assert told["auroc"] == pytest.approx(expected)
    assert list(found["subgroups"]["age"]) == ["under 18", "18–39", "40–59", "60–79", "80 and over"]
    small = found["subgroups"]["age"]["80 and over"]
    assert "macro" in small


def test_small_groups_are_counted_and_not_measured(scored: Scored) -> None:
    records = [
        dataclasses.replace(record, site="tiny" if n < 10 else "large")
        for n, record in enumerate(scored.records)
    ]
    groups = assess(dataclasses.replace(scored, records=tuple(records)), FEW)["subgroups"]["site"]
    assert groups["tiny"] == {"images": 10, "patients": 5}


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "under 18"), (17.9, "under 18"), (18, "18–39"), (80, "80 and over"), (411, "")],
)
def test_age_bands(age: float, band: str) -> None:
    # ChestX-ray14 does list people of 411 years.
    assert age_band(age) == band
    assert age_band(float("nan")) == ""


def test_view_matched_auroc_takes_the_view_away(scored: Scored) -> None:
    """A model that only knows the view looks good on all films and knows nothing within one."""
    blind = np.array([float(record.view == "AP") for record in scored.records])
    cheat = dataclasses.replace(
        scored, probability=np.repeat(blind[:, None], len(SYNTHETIC.labels), axis=1)
    )
    found = shortcuts.view_figures(cheat)
    assert found is not None
    effusion = found["labels"]["Effusion"]
    assert effusion["pooled"] > 0.65
    assert effusion["pooled"] == effusion["view_only"]
    assert effusion["matched"] == effusion["PA"] == effusion["AP"] == 0.5
    assert found["labels"]["Pneumothorax"]["matched"] is None
    one_view = tuple(dataclasses.replace(r, view="PA") for r in scored.records)
    assert shortcuts.view_figures(dataclasses.replace(scored, records=one_view)) is None


def test_co_occurrence_counts(scored: Scored, found: dict[str, Any]) -> None:
    table = found["co_occurrence"]
    i, j = SYNTHETIC.index("Effusion"), SYNTHETIC.index("Cardiomegaly")
    both = (scored.targets[:, i] == 1) & (scored.targets[:, j] == 1)
    assert table["truth"][i][j] == table["truth"][j][i] == both.sum()
    assert table["called"][i][i] == found["labels"]["Effusion"]["confusion"]["tp"]


def _records(targets: np.ndarray) -> tuple[Record, ...]:
    return tuple(
        Record(uri="", patient="p", split="test", targets=tuple(row)) for row in targets.tolist()
    )


def _chestxray14(count: int, rng: np.random.Generator) -> Scored:
    shares = [published.table()[label].percent_test / 100 for label in CHESTXRAY14.labels]
    targets = np.zeros((count, 14), dtype=np.float32)
    for k, share in enumerate(shares):
        targets[rng.permutation(count)[: round(share * count)], k] = 1
    return Scored(
        schema=CHESTXRAY14,
        records=_records(targets),
        sizes=np.zeros((count, 2), dtype=np.int32),
        targets=targets,
        probability=rng.random((count, 14)),
        cam=None,
        input_size=64,
        points={label: OperatingPoint(threshold=0.5, rule="x") for label in CHESTXRAY14.labels},
    )


def test_published_figures_are_compared_on_the_official_split_only(scored: Scored) -> None:
    rng = np.random.default_rng(0)
    official = _chestxray14(published.OFFICIAL_TEST_IMAGES, rng)
    found = published.beside(official)
    assert found is not None
    assert found["comparable"] == ["wang2017", "guendel2018", "aecnn"]
    assert found["labels"]["Hernia"]["guendel2018"] == 0.896
    assert found["mean"]["guendel2018"] == pytest.approx(0.804, abs=6e-4)
    # As many films of a random split, with other prevalence, are another test.
    targets = official.targets.copy()
    targets[:60, CHESTXRAY14.index("Pneumothorax")] = 1
    other = published.beside(
        dataclasses.replace(official, targets=targets, records=_records(targets))
    )
    assert other is not None
    assert other["comparable"] == []
    assert published.beside(_chestxray14(500, rng))["comparable"] == []  # type: ignore[index]
    assert published.beside(scored) is None
    # Films of it that could not be read do not make it another split; how many is said.
    part = official.only(np.arange(100, len(official)))
    read = published.beside(part, listed=official.records)
    assert read is not None
    assert (read["comparable"], read["left_out"]) == (found["comparable"], 100)
    assert found["left_out"] == 0
    assert published.beside(part)["comparable"] == []  # type: ignore[index]


def test_the_table_of_published_figures_is_whole() -> None:
    table = published.table()
    assert set(table) == {*CHESTXRAY14.labels, "No Finding"}
    for label in CHESTXRAY14.labels:
        assert set(table[label].auroc) == {source.key for source in published.SOURCES}
    mean = {
        source.key: np.mean([table[label].auroc[source.key] for label in CHESTXRAY14.labels])
        for source in published.SOURCES
    }
    assert mean["chexnet"] == pytest.approx(0.841, abs=6e-4)
    assert mean["aecnn"] == pytest.approx(0.824, abs=6e-4)


def test_corners_are_those_of_the_film_not_of_the_input() -> None:
    # A film half as wide as high: columns 16 … 48 of the input; a fifth of it are 6 × 13 pixels.
    place = Placement.letterbox(height=200, width=100, size=64)
    image = np.full((1, 64, 64), 200, dtype=np.uint8)
    masked, alone = shortcuts.without_corners(image, place), shortcuts.only_corners(image, place)
    assert (masked == 0).sum() == 4 * 6 * 13
    assert np.array_equal(masked == 0, alone == 200)
    assert masked[0, 0, 16] == masked[0, 63, 47] == 0
    assert masked[0, 0, 15] == masked[0, 0, 22] == masked[0, 13, 16] == 200
    assert (image == 200).all(), "the film itself is left alone"


def test_a_model_of_the_corners_is_found_out(scored: Scored) -> None:
    guess = np.random.default_rng(99).random(scored.probability.shape)
    found = shortcuts.corner_figures(scored, masked=guess, alone=scored.probability)
    effusion = found["labels"]["Effusion"]
    assert effusion["whole"] == effusion["corners_only"] > 0.75
    assert abs(effusion["corners_masked"] - 0.5) < 0.1
    assert found["labels"]["Pneumothorax"] == dict.fromkeys(effusion, None)
