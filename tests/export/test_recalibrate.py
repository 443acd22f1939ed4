"""New versions from stored outputs: right numbers, same graphs, nothing scored."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import tiny_package

from export import validation_outputs
from export.errors import OutputsError
from export.recalibrate import at_prevalence, choose, fit, stored_outputs, write
from hilum.cli import main
from hilum.engines.loading import open_engine
from hilum.errors import ConfigurationError
from hilum.packages.diff import same_graphs
from hilum.packages.findings import calibrate
from hilum.packages.labels import SYNTHETIC
from hilum.packages.load import Package, verify
from hilum.packages.manifest import CARD, GRAPH, PARITY, VALIDATION
from hilum.settings import Settings
from trainer.calibration import Rule
from trainer.metrics import calibration_error

FILMS = 4000
LABEL = "Effusion"
K = SYNTHETIC.labels.index(LABEL)


def outputs(prevalence: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw outputs that are too sure of themselves, and labels."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((FILMS, 6)) < prevalence).astype(np.float32)
    logit = rng.normal(np.where(targets == 1, 1.5, -1.5), 1.0)
    raw = 1 / (1 + np.exp(-(1.7 * logit + 0.5)))
    return raw.astype(np.float32), targets


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The tiny package with validation outputs."""
    folder = tmp_path_factory.mktemp("source") / "package"
    tiny_package.build(folder)
    raw, targets = outputs(0.3)
    patients = [f"p{n // 2}" for n in range(FILMS)]
    validation_outputs.write(folder / VALIDATION, raw=raw, targets=targets, patients=patients)
    return tiny_package.resealed(folder)


def test_fitting_again_calibrates(package: Package, tmp_path: Path) -> None:
    stored = stored_outputs(package, None)
    assert stored.patients.max() == FILMS // 2 - 1
    change = fit(package, stored, method="platt", rules={LABEL: Rule.parse("sensitivity>=0.95")})
    before, after = stored.raw[:, K], calibrate(stored.raw, change.calibration, "multi_label")[:, K]
    truth = stored.targets[:, K]
    old, new = calibration_error(truth, before), calibration_error(truth, after)
    assert old is not None
    assert new is not None
    assert new < 0.02 < old
    manifest = write(package, tmp_path / "new", "1.1.0", change)
    made = verify(tmp_path / "new")
    assert same_graphs(package, made)
    assert manifest.digest != package.digest
    called = after >= manifest.operating_points[LABEL].threshold
    assert called[truth == 1].mean() >= 0.95
    assert manifest.operating_points[LABEL].rule == "sensitivity>=0.95"
    open_engine(made, Settings())  # its golden outputs are still right
    assert package.digest in (tmp_path / "new" / "MODEL_CARD.md").read_text()


def test_a_new_version_carries_no_figures_of_the_old_ones_thresholds(
    package: Package, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(package.folder, old)
    card = "# tiny 1.0.0\n\n## Data\n\nFilms.\n\n## Figures\n\n| Effusion | 0.90 |\n\n## Limits\n"
    (old / CARD).write_text(card)
    graphs = [{"precision": "fp16", "max_dp": 0.001, "decisions_changed": 7, "decisions": 600}]
    (old / PARITY).write_text(json.dumps({"films": 100, "graphs": graphs}))
    source = tiny_package.resealed(old)
    change = fit(source, stored_outputs(source, None), method="platt", rules={})
    write(source, tmp_path / "new", "1.1.0", change)
    document = json.loads((tmp_path / "new" / PARITY).read_text())
    assert document == {"films": 100, "graphs": [{"precision": "fp16", "max_dp": 0.001}]}
    lines = (tmp_path / "new" / CARD).read_text().splitlines()
    assert lines[0] == "# tiny 1.1.0"
    at = lines.index("## Figures of version 1.0.0")
    assert lines[at + 2].startswith("**Not for this version**")
    assert lines[at + 4] == "| Effusion | 0.90 |"
    assert "## Figures" not in lines
    # And once more: the first version's figures stay the first version's.
    made = verify(tmp_path / "new")
    write(made, tmp_path / "newer", "1.2.0", change)
    lines = (tmp_path / "newer" / CARD).read_text().splitlines()
    assert lines[0] == "# tiny 1.2.0"
    assert [line for line in lines if line.startswith("## ")] == [
        "## Data", "## Figures of version 1.0.0", "## Limits", "## 1.1.0", "## 1.2.0",
    ]  # fmt: skip


def test_another_prevalence_moves_probabilities_and_calls_the_same_films(package: Package) -> None:
    stored = stored_outputs(package, None)
    fitted = fit(package, stored, method="platt", rules={})
    at_home = Package(
        package.folder,
        package.manifest.model_copy(
            update={"calibration": fitted.calibration, "operating_points": fitted.points}
        ),
    )
    change = at_prevalence(at_home, stored, {LABEL: 0.05})
    site_raw, site_targets = outputs(0.05, seed=1)
    mean_at_site = [
        float(calibrate(site_raw, c, "multi_label")[:, K].mean())
        for c in (fitted.calibration, change.calibration)
    ]
    assert abs(mean_at_site[1] - site_targets[:, K].mean()) < 0.01  # calibrated in the large
    assert mean_at_site[0] > 0.07  # as it was before the correction: far too many
    so_far = float(stored.targets[:, K].mean())
    by = change.calibration.shift[K] - fitted.calibration.shift[K]
    assert by == pytest.approx(math.log(0.05 / 0.95) - math.log(so_far / (1 - so_far)))
    for raw in (stored.raw, site_raw):
        calls = [
            calibrate(raw, c, "multi_label")[:, K] >= points[LABEL].threshold
            for c, points in (
                (fitted.calibration, fitted.points),
                (change.calibration, change.points),
            )
        ]
        assert (calls[0] != calls[1]).sum() <= (0 if raw is stored.raw else 1)
    others = [k for k in range(6) if k != K]
    assert [change.calibration.shift[k] for k in others] == [
        fitted.calibration.shift[k] for k in others
    ]


def test_labels_keep_their_rule_unless_told(package: Package) -> None:
    stored = stored_outputs(package, None)
    calibration = package.manifest.calibration
    first = choose(package, stored, calibration, {LABEL: Rule.parse("specificity>=0.90")})
    assert first[LABEL].specificity >= 0.9  # type: ignore[operator]
    assert first["Cardiomegaly"].rule == "youden"  # `fixed` names no rule
    changed = package.manifest.model_copy(update={"operating_points": first})
    second = choose(Package(package.folder, changed), stored, calibration, {})
    assert second == first
    with pytest.raises(ConfigurationError, match="no label 'Hernia'"):
        choose(package, stored, calibration, {"Hernia": Rule()})


def hilum(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_the_commands(package: Package, tmp_path: Path) -> None:
    to = ("--version", "2.0.0", "--to", tmp_path / "a")
    done = hilum("rethreshold", package.folder, *to, "--rule", "ppv>=0.60", "--rule", f"{LABEL}=f1")
    assert done.exit_code == 0, done.output
    points = verify(tmp_path / "a").manifest.operating_points
    assert (points[LABEL].rule, points["Pneumothorax"].rule) == ("f1", "ppv>=0.60")
    raw, targets = outputs(0.1, seed=2)
    np.savez(tmp_path / "site.npz", raw=raw, targets=targets)
    site = ("--outputs", tmp_path / "site.npz", "--version", "2.1.0", "--to", tmp_path / "b")
    assert hilum("recalibrate", tmp_path / "a", *site).exit_code == 0
    found = verify(tmp_path / "b")
    assert found.manifest.operating_points[LABEL].rule == "f1"
    prior = ("--prevalence", f"{LABEL}=0.02", "--version", "2.2.0", "--to", tmp_path / "c")
    old_words = hilum("package", "recalibrate", tmp_path / "b", *prior)
    assert old_words.exit_code == 0
    assert "Use `hilum recalibrate`" in old_words.stderr
    text = hilum("package", "diff", tmp_path / "b", tmp_path / "c").stdout
    assert "Same graphs" in text
    assert "manifest: calibration.shift" in text


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--version", "1.0.0"), "config.invalid"),
        (("--version", "2", "--rule", "often"), "config.invalid"),
        (("--version", "2", "--prevalence", "Effusion"), "config.invalid"),
        (("--version", "2", "--prevalence", "Effusion=1.5"), "config.invalid"),
        (("--version", "2", "--prevalence", "Hernia=0.1"), "config.invalid"),
        (("--version", "2", "--prevalence", "Effusion=0.1", "--rule", "f1"), "config.invalid"),
        (("--version", "2", "--outputs", "none.npz"), "export.outputs"),
    ],
)
def test_wrong_use(package: Package, tmp_path: Path, more: tuple[str, ...], code: str) -> None:
    done = hilum("recalibrate", package.folder, "--to", tmp_path / "x", *more)
    assert done.exit_code == 2
    assert f"[{code}]" in done.output
    assert not (tmp_path / "x").exists()


def test_outputs_of_another_model(package: Package, tmp_path: Path) -> None:
    zeros = {"raw": np.zeros((5, 6)), "targets": np.zeros((5, 6))}
    bad: dict[str, dict[str, np.ndarray]] = {
        "labels": {"raw": np.zeros((5, 3)), "targets": np.zeros((5, 3))},
        "count": {"raw": np.zeros((5, 6)), "targets": np.zeros((4, 6))},
        "not probabilities": {"raw": np.full((5, 6), 2.0), "targets": np.zeros((5, 6))},
        "nothing": {"raw": np.zeros((0, 6)), "targets": np.zeros((0, 6))},
        "no labels": {"raw": np.zeros((5, 6))},
        "percent": {"raw": np.zeros((5, 6)), "targets": np.full((5, 6), 100)},
        "uncertain": {"raw": np.zeros((5, 6)), "targets": np.full((5, 6), -1.0)},
        "infinite": {"raw": np.zeros((5, 6)), "targets": np.full((5, 6), np.inf)},
        "soft": {"raw": np.zeros((5, 6)), "targets": np.full((5, 6), 0.5)},
        "text": {"raw": np.zeros((5, 6)), "targets": np.full((5, 6), "1")},
        "text raw": {"raw": np.full((5, 6), "0.5"), "targets": np.zeros((5, 6))},
        "complex": {"raw": np.zeros((5, 6), complex), "targets": np.zeros((5, 6))},
        "fewer patients": zeros | {"patients": np.zeros(4, int)},
        "more patients": zeros | {"patients": np.zeros(6, int)},
        "patients in rows": zeros | {"patients": np.zeros((5, 1), int)},
        "fractions of patients": zeros | {"patients": np.zeros(5)},
    }
    for name, arrays in bad.items():
        np.savez(tmp_path / "o.npz", **arrays)  # type: ignore[arg-type]
        try:
            stored_outputs(package, tmp_path / "o.npz")
        except OutputsError:
            continue
        pytest.fail(name)
    (tmp_path / "o.npz").write_bytes(b"no zip")
    with pytest.raises(OutputsError):
        stored_outputs(package, tmp_path / "o.npz")
    tiny_package.build(tmp_path / "without")
    with pytest.raises(OutputsError, match="has no validation"):
        stored_outputs(verify(tmp_path / "without"), None)


def test_a_sites_patients_become_numbers(package: Package, tmp_path: Path) -> None:
    """A package goes to others: no number of the hospital's own in it."""
    known = {"raw": np.zeros((4, 6)), "targets": np.array([[0, 1, 0, 1, 0, np.nan]] * 4)}
    for patients in (["MRN9", "MRN2", "MRN9", "MRN5"], [2**40, 7, 2**40, 8]):
        np.savez(tmp_path / "o.npz", patients=np.array(patients), **known)  # type: ignore[arg-type]
        stored = stored_outputs(package, tmp_path / "o.npz")
        assert stored.patients.tolist() == [0, 1, 0, 2]
        assert np.isnan(stored.targets[:, 5]).all()


def test_a_folder_in_use_is_not_written_over(package: Package, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    change = fit(package, stored_outputs(package, None), method="none", rules={})
    with pytest.raises(ConfigurationError, match="not empty"):
        write(package, tmp_path, "3", change)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    made = write(package, tmp_path / "new", "3", change)
    assert made.files[GRAPH] == package.manifest.files[GRAPH]
