"""``python -m benchmarks.gpu_check [--quick] [--to FILE]``: all that only a GPU can prove
(`make gpu-check`), of TensorRT and of ONNX Runtime's GPU build, whichever are installed.

For each package: load time and memory, numbers against ONNX Runtime on the CPU with the same graph,
latency by batch, throughput, what happens on a full GPU. Of TensorRT also builds (with and without
the timings of an earlier one), CUDA graphs on and off, plans for other GPUs and
versions, two workers on one GPU; of ONNX Runtime, what the maps cost.

One JSON object a line goes to FILE; a step that fails is a line too, and the others go on. Exit 1
if anything that has to hold does not. Without a GPU, or without either library: exit 2, saying what
is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks import gpu_onnxruntime, gpu_tensorrt
from benchmarks.gpu_facts import Fact, attempt
from benchmarks.gpu_packages import make
from hilum import settings
from hilum.engines import cuda
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineUnavailableError, HilumError
from hilum.packages.load import Package
from hilum.packages.manifest import Precision
from trainer.backbones import BACKBONES


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What to measure."""

    backbones: tuple[str, ...] = tuple(sorted(BACKBONES))
    precisions: tuple[Precision, ...] = get_args(Precision)
    seconds: float = 5.0  # for each figure
    size: int | None = None
    max_batch: int = 16
    tensorrt: bool = True
    onnxruntime: bool = True
    workers: bool = True


def everything(folder: Path, scope: Scope) -> Iterator[Fact]:
    """Yield all facts as soon as they are measured."""
    for backbone in scope.backbones:
        for precision in scope.precisions:
            package = partial(
                make,
                backbone=backbone,
                precision=precision,
                size=scope.size,
                max_batch=scope.max_batch,
            )
            case = f"{backbone} {precision}"
            facts = partial(_package, folder, package, backbone, precision, scope)
            yield from attempt("package", case, facts)


def _package(
    folder: Path,
    package: Callable[..., Package],
    backbone: str,
    precision: Precision,
    scope: Scope,
) -> Iterator[Fact]:
    one = package(folder / f"{backbone}-{precision}")
    case = f"{backbone} {precision}"
    if scope.onnxruntime:
        yield from gpu_onnxruntime.check(one, backbone, case, seconds=scope.seconds)
    if not scope.tensorrt:
        return
    store = PlanStore(folder / "engines")
    yield from gpu_tensorrt.check(one, case, store, seconds=scope.seconds)
    if precision != scope.precisions[0]:
        return
    steps: dict[str, Callable[[], Iterator[Fact]]] = {
        "compatible": lambda: gpu_tensorrt.compatible(one, case, store),
        "failures": lambda: gpu_tensorrt.failures(one, case, store),
    }
    if scope.workers:
        steps["workers"] = lambda: gpu_tensorrt.two_workers(one, case, store, scope.seconds)
    for name, facts in steps.items():
        yield from attempt(name, case, facts)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="resnet18 only, one second per figure")
    parser.add_argument("--to", type=Path, default=Path("build/gpu-check.jsonl"))
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per figure")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), action="append")
    parser.add_argument("--precision", choices=get_args(Precision), action="append")
    arguments = parser.parse_args()
    library.use(settings.load().tensorrt.library)
    try:
        device = cuda.require_device()
        tensorrt, onnxruntime = _libraries()
    except HilumError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    names = ", ".join(filter(None, (tensorrt, onnxruntime)))
    print(f"{device.name} ({device.sm}), driver for CUDA {device.driver_cuda}, {names}")
    quick = Scope(backbones=("resnet18",), precisions=("fp16",), seconds=1.0)
    default = quick if arguments.quick else Scope(seconds=arguments.seconds)
    scope = Scope(
        backbones=tuple(arguments.backbone or default.backbones),
        precisions=tuple(arguments.precision or default.precisions),
        seconds=default.seconds,
        tensorrt=tensorrt is not None,
        onnxruntime=onnxruntime is not None,
    )
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, arguments.to.open("w") as file:
        for fact in everything(Path(scratch), scope):
            print(fact.text(), flush=True)
            document = asdict(fact) | {"gpu": device.name, "library": names}
            file.write(json.dumps(document) + "\n")
            failed += fact.holds is False
    print(f"{failed} failed; figures in {arguments.to}")
    sys.exit(1 if failed else 0)


def _libraries() -> tuple[str | None, str | None]:
    """Name TensorRT and ONNX Runtime's GPU build if installed; print which one is not.

    Raises:
        EngineUnavailableError: neither is.
    """
    onnxruntime = gpu_onnxruntime.label()
    try:
        tensorrt = library.label()
    except EngineUnavailableError as error:
        if onnxruntime is None:
            raise
        print(f"not checked: {error}")
        return None, onnxruntime
    if onnxruntime is None:
        print("not checked: ONNX Runtime's GPU build, which is not installed")
    return tensorrt, onnxruntime


if __name__ == "__main__":
    main()
