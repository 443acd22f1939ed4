"""Build a plan with TensorRT's parser and builder.

Networks are strongly typed: TensorRT computes in the types of the graph. The export chooses the
precision (``hilum export --precision``), because TensorRT 11 has no flags to change it.

Most calls of this API report a failure only by their return value (``False``, ``-1``, ``None``) and
its reason only to the logger, so every return value is checked here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import SupportsInt

from hilum.engines import Signature, Tensors, cuda
from hilum.engines.onnx_file import has_external_data
from hilum.engines.tensorrt.library import (
    DTYPES,
    builds_without_gpu,
    bytes_of,
    keeps_timings,
    label,
    shape_of,
    trt,
)
from hilum.engines.tensorrt.objects import Messages, make, release, shorten
from hilum.engines.tensorrt.record import BuildOptions
from hilum.errors import EngineBuildError, PackageError
from hilum.packages.manifest import GRAPH


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a build: the steps done in one phase. Phases have TensorRT's own names."""

    phase: str
    parent: str | None
    done: int
    steps: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished plan."""

    plan: bytes
    timing_cache: bytes  # empty if the library has none
    seconds: float


def build(
    graph: bytes,
    promised: Signature,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    report: Report | None = None,
) -> Built:
    """Build the plan of ``graph`` for this machine's GPU. Takes seconds to many minutes.

    Ctrl-C cancels the build. It is raised when the builder has stopped.

    Args:
        promised: the expected inputs and outputs of the ONNX file ``graph``.
        timing_cache: from an earlier build. Ignored if it is from another GPU or version.
        report: called with the progress, on the building thread.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU or driver that it can use.
        DeviceOutOfMemoryError: the GPU has too little memory for a builder.
        PackageError: the graph is damaged, or keeps weights in another file.
        EngineBuildError: the parser or the builder fails. The detail quotes their messages.
    """
    if not builds_without_gpu():
        cuda.require_device()  # without a driver, using a builder crashes the process
    cancel = threading.Event()

    def work() -> Built:
        try:
            return _build(graph, promised, options, timing_cache, _monitor(cancel, report))
        except BaseException as error:
            release(error)
            raise

    # On a thread of its own: the builder calls Python code, and the exception of a signal must not
    # be raised there and pass through C++.
    with ThreadPoolExecutor(1, thread_name_prefix="hilum-engine-build") as thread:
        try:
            return thread.submit(work).result()
        except BaseException:
            cancel.set()
            raise


def _build(
    graph: bytes,
    promised: Signature,
    options: BuildOptions,
    timing_cache: bytes,
    monitor: trt.IProgressMonitor,
) -> Built:
    began = time.monotonic()
    messages = Messages()
    builder = make(trt.Builder, messages=messages)
    network, parser = _parse(builder, graph, promised, messages)
    config = builder.create_builder_config()
    if config is None:
        raise EngineBuildError(f"{label()} cannot create a configuration: {messages.quote()}")
    _configure(config, options)
    _add_profile(builder, config, promised, options, messages)
    if keeps_timings():
        _use_timing_cache(config, timing_cache)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    del parser  # not earlier: the parser owns the weights
    if plan is None:
        raise EngineBuildError(f"{label()} cannot build the network: {messages.quote()}")
    return Built(
        plan=bytes_of(plan),
        timing_cache=_timing_cache(config),
        seconds=time.monotonic() - began,
    )


def _parse(
    builder: trt.Builder, graph: bytes, promised: Signature, messages: Messages
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    """Return the network of ``graph``, and the parser, which owns the weights."""
    if has_external_data(graph):
        # The parser would read any file that the graph names, relative to the working directory.
        raise PackageError(f"{GRAPH} keeps weights in another file. Export it as one file.")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise EngineBuildError(f"{label()} cannot create a network: {messages.quote()}")
    parser = make(trt.OnnxParser, network, messages=messages)
    if not parser.parse(graph):
        raise EngineBuildError(
            f"{label()} cannot parse {GRAPH}: {_errors(parser) or messages.quote()}",
            next_step="Export with another --precision, or set HILUM_ENGINE to `onnxruntime`.",
        )
    found = Signature(
        inputs=_tensors(network.get_input(i) for i in range(network.num_inputs)),
        outputs=_tensors(network.get_output(i) for i in range(network.num_outputs)),
    )
    if found != promised:
        raise EngineBuildError(f"{GRAPH} has {found}, but must have {promised}.")
    return network, parser


def _errors(parser: trt.OnnxParser) -> str:
    """The errors of the parser, each with its node."""
    texts = []
    for position in range(parser.num_errors):
        error = parser.get_error(position)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(f"{node}{error.desc()} [{error.code().name}]")
    return shorten(texts)


def _tensors(found: Iterable[trt.ITensor]) -> Tensors:
    return {t.name: (DTYPES.get(t.dtype.name, t.dtype.name), shape_of(t.shape)) for t in found}


def _configure(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    config.builder_optimization_level = options.optimization_level
    flags = {
        trt.BuilderFlag.TF32: options.tf32,  # on by default in the library
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
    }
    for flag, wanted in flags.items():
        (config.set_flag if wanted else config.clear_flag)(flag)
        if config.get_flag(flag) != wanted:
            raise EngineBuildError(f"{label()} does not accept the flag {flag.name} = {wanted}.")
    if options.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    level = getattr(trt.HardwareCompatibilityLevel, options.hardware.upper())
    config.hardware_compatibility_level = level
    if not builds_without_gpu() and config.hardware_compatibility_level != level:
        raise EngineBuildError(f"{label()} does not accept hardware compatibility {level.name}.")


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    promised: Signature,
    options: BuildOptions,
    messages: Messages,
) -> None:
    profile = builder.create_optimization_profile()
    if profile is None:
        raise EngineBuildError(f"{label()} cannot create a batch profile: {messages.quote()}")
    batches = options.profile
    for name, (_, shape) in promised.inputs.items():
        # TensorRT 10 accepts only Dims, and Dims accepts only a list.
        minimum, optimum, maximum = (trt.Dims([count, *shape[1:]]) for count in batches)
        profile.set_shape(name, minimum, optimum, maximum)
    if config.add_optimization_profile(profile) < 0:
        raise EngineBuildError(
            f"{label()} does not accept the batch profile {', '.join(map(str, batches))}: "
            f"{messages.quote()}"
        )


def _use_timing_cache(config: trt.IBuilderConfig, content: bytes) -> None:
    """Start from the timings in ``content``, or from none if they are from another machine. If that
    fails too, the builder measures everything again."""
    for candidate in (content, b""):
        cache = config.create_timing_cache(candidate)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _timing_cache(config: trt.IBuilderConfig) -> bytes:
    cache = config.get_timing_cache() if keeps_timings() else None
    content = cache.serialize() if cache is not None else None
    return bytes_of(content) if content is not None else b""


def _monitor(cancel: threading.Event, report: Report | None) -> trt.IProgressMonitor:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,unused-ignore]
        """Called by the builder. An exception raised here would end the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int]] = {}

        def phase_start(
            self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt
        ) -> None:
            self._phases[phase_name] = (parent_phase, int(num_steps))
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            self._tell(phase_name, int(step) + 1)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            parent, steps = self._phases.get(phase, (None, 0))
            if report is None or cancel.is_set():
                return
            # The build goes on if the progress can no longer be shown.
            with contextlib.suppress(Exception):
                report(Progress(phase=phase, parent=parent, done=done, steps=steps))

    return Monitor()
