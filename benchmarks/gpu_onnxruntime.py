"""What only a GPU can prove of ONNX Runtime's CUDA provider, and what all the maps cost there.

``maps …`` are images a second of one call, from host memory to host memory: the whole graph, the
graph cut down to its probabilities, and torch eager on the same GPU with the usual autograd
Grad-CAM of one label, in float32 as the graph is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import onnxruntime
import torch

from benchmarks.autograd_cam import usual
from benchmarks.engine import forward_only
from benchmarks.gpu_facts import (
    Fact,
    attempt,
    figure,
    filled,
    holds,
    latency,
    numbers,
    throughput,
)
from benchmarks.gpu_packages import classifier, films
from benchmarks.report import interleaved
from hilum.engines import cuda
from hilum.engines.golden import check_golden
from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, options
from hilum.errors import DeviceOutOfMemoryError
from hilum.package_io import Package

BATCH = 16
DEVICE = "cuda"  # of torch
_PROVIDER = "CUDAExecutionProvider"


def label() -> str | None:
    """Name and version; ``None`` if the GPU build is not installed."""
    if _PROVIDER not in onnxruntime.get_available_providers():
        return None
    return f"ONNX Runtime {onnxruntime.__version__}"


def check(package: Package, backbone: str, case: str, *, seconds: float) -> Iterator[Fact]:
    """Everything about one package, in one process; of bfloat16 nothing, which is TensorRT's."""
    if package.manifest.graph_for("tensorrt").precision == "bf16":
        return
    case = f"{case} onnxruntime"
    yield from attempt("load", case, partial(_loading, package, case))
    yield from attempt("numbers", case, partial(_running, package, case, seconds))
    yield from attempt("no memory", case, partial(_full, package, case))
    if package.manifest.graph_for("tensorrt").precision == "fp32":
        yield from attempt("maps", case, partial(_maps, package, backbone, case))


def _loading(package: Package, case: str) -> Iterator[Fact]:
    before, began = cuda.memory_free(), time.perf_counter()
    with closing(OnnxRuntimeCudaEngine(package, max_batch=BATCH)):
        yield figure("load", case, time.perf_counter() - began, "s")
        yield figure("GPU memory", case, (before - cuda.memory_free()) / 2**20, "MiB")


def _running(package: Package, case: str, seconds: float) -> Iterator[Fact]:
    with closing(OnnxRuntimeCudaEngine(package, max_batch=BATCH)) as engine:
        yield from numbers(engine, package, case)
        yield from latency(engine, package, case, seconds)
        yield figure("throughput", case, throughput(engine, package, seconds), "images/s")


def _full(package: Package, case: str) -> Iterator[Fact]:
    """A full GPU is what it says, to who opens an engine."""

    def no_room() -> None:
        with filled():
            try:
                OnnxRuntimeCudaEngine(package, max_batch=BATCH).close()
            except DeviceOutOfMemoryError:
                return
        raise AssertionError("DeviceOutOfMemoryError did not come")

    def again() -> None:
        with closing(OnnxRuntimeCudaEngine(package, max_batch=BATCH)) as engine:
            check_golden(engine, package, "tensorrt")

    yield holds("no memory", case, no_room)
    yield holds("works again", case, again)


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

    torch.backends.cudnn.allow_tf32 = False  # as the graph is computed
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
