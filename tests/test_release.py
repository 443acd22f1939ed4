"""What a release holds, and that there is one version."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import hilum
from hilum.cli import main
from tools import release

ROOT = Path(__file__).parents[1]
GOOD = [
    *("hilum/__init__.py", "hilum/py.typed", "hilum/db/migrations/versions/0001.py"),
    *("hilum/filmcheck/weights.npz", "hilum/filmcheck/provenance.json"),
    *("trainer/manual.txt", "trainer/ablation/page.md"),
    *("trainer/evaluation/chestxray14.csv", "trainer/report/report.html"),
    *("trainer/evaluation/published.csv", "trainer/report/report.mplstyle"),
    *("export/card.md", "export/xrv.csv"),
    *(
        f"hilum_demo/demo/{n}"
        for n in ("manifest.json", "model.onnx", "golden.npz", "MODEL_CARD.md")
    ),
    *("hilum_demo/samples/effusion.dcm", "hilum_demo/samples/PROVENANCE.md"),
    *("hilum-1.dist-info/entry_points.txt", "hilum-1.dist-info/licenses/LICENSE"),
]


def test_a_good_wheel_has_no_problems() -> None:
    assert release.wheel_problems(GOOD, ["hilum/__init__.py", "README.md"]) == []


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([*GOOD, "tests/test_a.py"], "has the top-level name tests"),
        ([*GOOD, "hilum/patients.db"], "must not have hilum/patients.db"),
        ([name for name in GOOD if "model.onnx" not in name], "lacks hilum_demo/demo/model.onnx"),
        ([name for name in GOOD if "__init__" not in name], "lacks hilum/__init__.py"),
    ],
)
def test_a_bad_wheel_is_refused(names: list[str], problem: str) -> None:
    assert problem in release.wheel_problems(names, ["hilum/__init__.py"])


def test_an_sdist_holds_nothing_else() -> None:
    good = ["pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "hilum/__init__.py"]
    assert release.sdist_problems(good) == []
    assert release.sdist_problems([*good, "var/hilum.db"]) == ["has the top-level name var"]
    assert release.sdist_problems(good[1:]) == ["lacks pyproject.toml"]


def test_there_is_one_version() -> None:
    assert version("hilum") == hilum.__version__
    assert json.loads((ROOT / "docs/openapi.json").read_text())["info"]["version"] == (
        hilum.__version__
    )
    said = CliRunner().invoke(main, ["--version"])
    assert said.output.strip() == f"hilum {hilum.__version__}"
    assert '\nversion = "' not in (ROOT / "pyproject.toml").read_text()


def test_the_hooks_run_what_make_lint_runs() -> None:
    rule = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    linted = set(re.findall(r"bin/([\w-]+)(?: (check|format))?", rule))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert (
        set(re.findall(r"bin/([\w-]+)(?: (check|format))?", hooks.partition("repos:")[2])) == linted
    )
    assert len(linted) == 4
    assert "https://" not in hooks
