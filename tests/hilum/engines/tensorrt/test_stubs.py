"""Our calls of TensorRT, checked by mypy against stubs made from the real bindings of the newest
and the oldest version that hilum supports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tensorrt_stubs

import hilum.engines.tensorrt

SOURCES = Path(hilum.engines.tensorrt.__file__).parent

# What must be found, so that finding nothing in hilum means something.
PROBE = """
from __future__ import annotations
import tensorrt as trt

def wrong(config: trt.IBuilderConfig, context: trt.IExecutionContext) -> None:
    config.add_optimisation_profile()  # misspelled
    context.execute_async_v3("stream")  # not a number
    trt.BuilderFlag.FP16  # gone in 11
    context.set_tensor_address("image")  # one argument short
"""


@pytest.mark.parametrize("version", tensorrt_stubs.VERSIONS)
def test_our_calls_fit_the_bindings(version: str, tmp_path: Path) -> None:
    stubs = tensorrt_stubs.generate(version)
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    sources = [path for path in SOURCES.glob("*.py") if "trt." in path.read_text()]
    assert {"build.py", "objects.py", "runtime.py"} <= {path.name for path in sources}
    errors = mypy(stubs, [*sources, probe], tmp_path / "cache")
    assert not [line for line in errors if line.startswith("hilum/")]

    found = {int(line.split(":")[1]) for line in errors if "probe.py" in line.split(":")[0]}
    lines = PROBE.splitlines()
    expected = {i for i, text in enumerate(lines, 1) if "#" in text}
    if version.startswith("10."):
        expected -= {i for i, text in enumerate(lines, 1) if "gone in 11" in text}
    assert found == expected


def mypy(stubs: Path, files: list[Path], cache: Path) -> list[str]:
    """The errors mypy finds in ``files``, looking into nothing else but the stubs."""
    root = SOURCES.parents[2]
    command = [sys.executable, "-m", "mypy", "--config-file", os.devnull, "--strict"]
    command += ["--follow-imports", "skip", "--cache-dir", str(cache), "--no-warn-unused-ignores"]
    command += ["--allow-subclassing-any", "--no-warn-return-any", "--namespace-packages"]
    command += ["--explicit-package-bases", "--disable-error-code", "untyped-decorator"]
    everything = [*files, *stubs.rglob("*.pyi")]
    done = subprocess.run(
        [*command, *map(str, everything)],
        cwd=root,
        env=os.environ | {"MYPYPATH": f"{root}:{stubs}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return [
        line.replace(f"{root}/", "") for line in done.stdout.splitlines() if ": error: " in line
    ]
