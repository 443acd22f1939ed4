"""The distribution holds our packages and nothing else's names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A copy: building leaves its traces in the tree.
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in tracked:
        if name.startswith(("docs/", "tests/", "benchmarks/")):
            continue
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("hilum-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_level_names_are_ours(wheel_names: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "hilum",
        "trainer",
        "export",
        "worker",
        "api_gateway",
        "hilum_demo",
    }


def test_every_module_and_migration_is_in_it(wheel_names: list[str]) -> None:
    ours = ("hilum", "trainer", "export", "worker", "api_gateway")
    found = [path for name in ours for path in (ROOT / name).rglob("*")]
    kinds = {".py", ".toml", ".csv"}
    sources = {str(path.relative_to(ROOT)) for path in found if path.suffix in kinds}
    assert sources - set(wheel_names) == set()
    assert "hilum/py.typed" in wheel_names
    bundled = {f"hilum_demo/{f.relative_to(MODELS)}" for f in MODELS.rglob("*.*") if f.is_file()}
    assert {name for name in bundled if not name.endswith(".pyc")} - set(wheel_names) == set()


def test_serving_needs_no_torch() -> None:
    """The worker, the gateway and `hilum score` import nothing of the training side."""
    code = (
        "import sys; import worker.cli, api_gateway.cli, hilum.commands.score, worker.process; "
        "print(sorted({'torch', 'torchvision', 'onnx', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_gateway_loads_no_engine() -> None:
    code = "import sys, api_gateway.cli; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
