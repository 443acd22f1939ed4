"""What only a GPU can prove about ONNX Runtime's CUDA provider, and what all maps cost there.

``maps …`` are images a second of one call, from host memory to host memory: the whole graph, the
graph cut down to its probabilities, and torch eager on the same GPU with the usual autograd
Grad-CAM of one label, in float32 as the graph is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import onnxruntime
import torch

from benchmarks.autograd_cam import usual
from benchmarks.engine import forward_only
from benchmarks.gpu_facts import Fact, attempt, figure, full, latency, loading, numbers, rate
from benchmarks.gpu_packages import classifier, films
from benchmarks.report import interleaved
from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, options
from hilum.packages.load import Package

BATCH = 16
DEVICE = "cuda"  # of torch
_PROVIDER = "CUDAExecutionProvider"


def label() -> str | None:
    """Name and version; ``None`` if the GPU build is not installed."""
    if _PROVIDER not in onnxruntime.get_available_providers():
        return None
    return f"ONNX Runtime {onnxruntime.__version__}"


def check(package: Package, backbone: str, case: str, *, seconds: float) -> Iterator[Fact]:
    """Yield all facts about one package, in one process; bfloat16 is for TensorRT only."""
    precision = package.manifest.graph_for("tensorrt").precision
    if precision == "bf16":
        return
    case = f"{case} onnxruntime"
    opened = partial(OnnxRuntimeCudaEngine, package, max_batch=BATCH)
    yield from attempt("load", case, partial(loading, opened, case))
    yield from attempt("numbers", case, partial(_running, opened, package, case, seconds))
    yield from attempt("no memory", case, partial(full, opened, package, case))
    if precision == "fp32":
        yield from attempt("maps", case, partial(_maps, package, backbone, case))


def _running(
    opened: Callable[[], OnnxRuntimeCudaEngine], package: Package, case: str, seconds: float
) -> Iterator[Fact]:
    with closing(opened()) as engine:
        yield from numbers(engine, package, case)
        yield from latency(engine, package, case, seconds)
        yield from rate(engine, package, case, seconds)


def _maps(package: Package, backbone: str, case: str) -> Iterator[Fact]:
    size = package.manifest.input.size
    images = films(size, BATCH)
    graph = package.read(package.manifest.graph_for("tensorrt").graph)
    provider = (_PROVIDER, options(package.manifest))
    whole, plain = (
        onnxruntime.InferenceSession(content, providers=[provider])
        for content in (graph, forward_only(graph))
    )
    model = classifier(backbone).to(DEVICE)

    def autograd() -> object:
        found = usual(model, torch.from_numpy(images).to(DEVICE), 0)
        return [part.cpu() for part in found]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as the graph is computed
        taken = interleaved(
            [
                lambda: whole.run(["probability", "cam"], {"image": images}),
                lambda: plain.run(["probability"], {"image": images}),
                autograd,
            ],
            repeats=30,
            warmup=3,
        )
    names = ("maps of all labels", "maps left out", "maps: autograd, one label")
    for name, seconds in zip(names, taken, strict=True):
        yield figure(name, case, BATCH / seconds, "images/s")
