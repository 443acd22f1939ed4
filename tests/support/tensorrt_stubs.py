"""Type stubs of TensorRT's Python bindings, made here and now from the real wheels.

The wheels ship none, and their text may not be copied. The ``-bindings`` wheels install anywhere,
but are linked against libraries that do not; over stand-ins (:mod:`support.null_library`)
pybind11-stubgen reads names and signatures out of them. `make` fetches the wheels.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from support.null_library import null_library

from hilum.files import locked

VERSIONS = {"11.4": "11.4.0.106", "10.16": "10.16.1.11"}
WHEELS = Path(sys.prefix) / "tensorrt-bindings"  # where the Makefile puts them

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def generate(version: str) -> Path:
    """Stubs of ``tensorrt`` at ``version`` (a key of :data:`VERSIONS`), made once and kept beside
    the wheel.

    Returns:
        The folder with the stubs; :func:`classes` is the file in it with the classes.
    """
    wheel = _wheel(version)
    maker = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    folder = WHEELS / f"{version}-stubs-{maker}"
    with locked(WHEELS / f".{version}.lock"), TemporaryDirectory(dir=WHEELS) as made:
        if not folder.is_dir():
            _generate(version, wheel, Path(made) / "stubs")
            (Path(made) / "stubs").rename(folder)
    return folder


def classes(folder: Path) -> Path:
    return folder / "tensorrt_bindings" / "tensorrt.pyi"


def _generate(version: str, wheel: Path, folder: Path) -> None:
    libraries = folder / "lib"
    libraries.mkdir(parents=True)
    major = version.partition(".")[0]
    for name in _LIBRARIES:
        soname = f"lib{name}.so.{major}"
        (libraries / soname).write_bytes(null_library(soname, _FUNCTIONS))
    paths = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(wheel)}
    subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "tensorrt_bindings", "-o", str(folder)],
        env=os.environ | paths,
        check=True,
        capture_output=True,
    )
    stub = classes(folder)
    stub.write_text(_repaired(stub.read_text()))
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.pyi").write_text(
        "from tensorrt_bindings.tensorrt import *\n__version__: str\n"
    )


def _wheel(version: str) -> Path:
    """The installed wheel; fetched if `make` has not been asked to."""
    folder = WHEELS / version
    WHEELS.mkdir(exist_ok=True)
    with locked(WHEELS / f".{version}.lock"):  # tests run in several processes
        if not (folder / "tensorrt_bindings").is_dir():
            requirement = f"tensorrt-cu13-bindings=={VERSIONS[version]}"
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([sys.executable, *install, requirement], check=True)
    return folder


def fetch() -> None:
    """Have all wheels here."""
    for version in VERSIONS:
        _wheel(version)


def _repaired(stub: str) -> str:
    """A few signatures in the bindings are no valid Python (parameters called ``in``, defaults
    before parameters without); nothing that hilum calls. They become untyped."""
    lines = []
    for line in stub.split("\n"):
        text = line.strip()
        if text.startswith("def ") and text.endswith(":"):
            try:
                ast.parse(f"{text} ...")
            except SyntaxError:
                begin = re.match(r" *def \w+\(", line)
                assert begin is not None
                lines.append(f"{begin[0]}*args: typing.Any, **kw: typing.Any) -> typing.Any:")
                continue
        lines.append(line)
    # The module has a member `bool`, one of its data types, which hides Python's.
    text = re.sub(r"(->|:) bool\b", r"\1 builtins.bool", "\n".join(lines))
    return text.replace("import typing\n", "import builtins\nimport typing\n", 1)


if __name__ == "__main__":
    fetch()
