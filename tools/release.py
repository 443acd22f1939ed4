"""``make release``: build wheel and sdist, check what is in them, install the wheel into an empty
environment, and run it in an empty folder.

``--trial`` leaves out what only a release needs (a clean checkout, a heading in CHANGELOG.md).
``--site FOLDER`` takes the dependencies from another environment's site-packages instead of
installing them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("hilum", "trainer", "export", "worker", "api_gateway")
DATA: Final = "hilum_demo"  # the folder models/ of a checkout
# What a user would miss, beside every tracked file of the packages. Patterns of paths.
WHEEL_NEEDS: Final = (
    "hilum/py.typed",
    "hilum/db/migrations/versions/*.py",
    "hilum/filmcheck/weights.npz",
    "hilum/filmcheck/provenance.json",
    "trainer/manual.txt",
    "trainer/ablation/page.md",
    "trainer/evaluation/chestxray14.csv",
    "trainer/evaluation/published.csv",
    "trainer/report/report.html",
    "trainer/report/report.mplstyle",
    "export/card.md",
    "export/xrv.csv",
    "hilum_demo/demo/manifest.json",
    "hilum_demo/demo/model.onnx",
    "hilum_demo/demo/golden.npz",
    "hilum_demo/demo/MODEL_CARD.md",
    "hilum_demo/samples/effusion.dcm",
    "hilum_demo/samples/PROVENANCE.md",
    "*.dist-info/entry_points.txt",
    "*.dist-info/licenses/LICENSE",
)
# What makes weights is no part of what is installed; nothing of tests, runs or secrets ever is.
WHEEL_REFUSES: Final = (
    "trainer/filmcheck/*",
    "*standin*",
    "*test_*.py",
    "*.pyc",
    "*.key",
    "*.env",
    "*.db",
    "*.log",
)
SDIST_NEEDS: Final = ("pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "hilum/__init__.py")
SDIST_TOP: Final = {
    *PACKAGES,
    *("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "PKG-INFO", "hilum.egg-info"),
    *("MANIFEST.in", "CHANGELOG.md", "models", "tests"),
}
LARGEST_WHEEL: Final = 40_000_000  # bytes; the bundled model is most of it


class ReleaseError(Exception):
    """The release cannot be made; the text says why."""


def wheel_problems(names: Collection[str], tracked: Iterable[str]) -> list[str]:
    """What is wrong with a wheel of these files, if ``tracked`` is what git keeps."""
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    ours = {name for name in tracked if name.split("/")[0] in PACKAGES}
    return [
        *(f"has the top-level name {name}" for name in sorted(top - {*PACKAGES, DATA})),
        *(f"lacks {name}" for name in sorted(ours - set(names)) if not _refused(name)),
        *(f"lacks {pattern}" for pattern in WHEEL_NEEDS if not _any(names, pattern)),
        *(f"must not have {name}" for name in sorted(names) if _refused(name)),
    ]


def sdist_problems(names: Collection[str]) -> list[str]:
    """What is wrong with an sdist of these files, given without its own top folder."""
    top = {name.split("/")[0] for name in names if name}
    return [
        *(f"has the top-level name {name}" for name in sorted(top - SDIST_TOP)),
        *(f"lacks {name}" for name in SDIST_NEEDS if name not in names),
        *(f"must not have {n}" for n in sorted(names) if fnmatch(n, "*.key") or ".pyc" in n),
    ]


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatch(name, pattern) for name in names)


def _refused(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WHEEL_REFUSES)


def _run(command: Sequence[str | Path], *, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        what = " ".join(str(part) for part in command)
        raise ReleaseError(f"`{what}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _version() -> str:
    return _run([sys.executable, "-c", "import hilum; print(hilum.__version__)"]).strip()


def _check_checkout(version: str) -> None:
    if _run(["git", "status", "--porcelain"]).strip():
        raise ReleaseError("The checkout has changes that are not committed.")
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise ReleaseError(f"CHANGELOG.md has no heading [{version}].")


def _build(out: Path, version: str) -> Path:
    """Build both from the checkout, the wheel from the sdist; returns the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    constraints = str(ROOT / "constraints.txt")
    _run([sys.executable, "-m", "build", "--outdir", out, ROOT], PIP_CONSTRAINT=constraints)
    wheel = out / f"hilum-{version}-py3-none-any.whl"
    sdist = out / f"hilum-{version}.tar.gz"
    if sorted(path.name for path in out.iterdir()) != sorted([wheel.name, sdist.name]):
        raise ReleaseError(f"{out} holds other files than {wheel.name} and {sdist.name}.")
    return wheel


def _check_contents(wheel: Path, *, trial: bool) -> None:
    tracked = _run(["git", "ls-files", "-z", "--", *PACKAGES]).split("\0")
    with zipfile.ZipFile(wheel) as archive:
        found = wheel_problems(archive.namelist(), [name for name in tracked if name])
    if wheel.stat().st_size > LARGEST_WHEEL:
        found.append(f"is larger than {LARGEST_WHEEL} bytes")
    problems = [f"The wheel {problem}." for problem in found]
    sdist = next(wheel.parent.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    problems += [f"The sdist {problem}." for problem in sdist_problems(names)]
    if problems and not trial:
        raise ReleaseError("\n".join(problems))
    for problem in problems:
        print(f"  in a release this would be refused: {problem}")


def _try(wheel: Path, version: str, site: Path | None) -> None:
    """Install into an empty environment and score a bundled film in an empty folder, with the
    bundled model."""
    with tempfile.TemporaryDirectory(prefix="hilum-release-") as scratch:
        environment = Path(scratch, "environment")
        venv.create(environment, with_pip=True)
        python = environment / "bin/python"
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        if site is None:
            _run([*pip, "--constraint", ROOT / "constraints.txt", f"{wheel}[serve]"])
        else:
            _run([*pip, "--no-deps", wheel])
        (packages,) = environment.glob("lib/python*/site-packages")
        if site is not None:
            (packages / "dependencies.pth").write_text(f"{site}\n", encoding="utf-8")
        empty = Path(scratch, "folder")
        empty.mkdir()
        hilum = environment / "bin/hilum"
        said = _run([hilum, "--version"], cwd=empty).strip()
        if said != f"hilum {version}":
            raise ReleaseError(f"`hilum --version` says {said!r}; expected hilum {version}.")
        film, model = packages / DATA / "samples/effusion.dcm", packages / DATA / "demo"
        scored = json.loads(_run([hilum, "score", film, "--json", "--model", model], cwd=empty))
        labels = [finding["label"] for finding in scored["findings"]]
        if scored["status"] != "scored" or "Effusion" not in labels:
            raise ReleaseError(f"The sample film gave {scored['status']}, {labels}.")


def main() -> int:
    """Make the release in dist/; 0 if everything holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trial", action="store_true", help="say what a release would refuse")
    parser.add_argument("--site", type=Path, help="site-packages that holds the dependencies")
    options = parser.parse_args()
    try:
        version = _version()
        if not options.trial:
            _check_checkout(version)
        wheel = _build(ROOT / "dist", version)
        print(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB, and its sdist")
        _check_contents(wheel, trial=options.trial)
        print("contents checked")
        _try(wheel, version, options.site and options.site.resolve())
        print("installed into an empty environment; a sample film was scored there")
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
