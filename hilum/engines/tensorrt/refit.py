"""New weights into an old plan: seconds instead of a build, and the same kernels as before."""

from __future__ import annotations

import time

from hilum.engines.onnx_file import has_external_data
from hilum.engines.tensorrt.build import Built
from hilum.engines.tensorrt.library import bytes_of, label, trt
from hilum.engines.tensorrt.messages import Messages
from hilum.engines.tensorrt.network import Signature, parser_errors
from hilum.engines.tensorrt.objects import make
from hilum.engines.tensorrt.plan import load
from hilum.errors import PackageError, RefitError
from hilum.packages.manifest import GRAPH


def refit(plan: bytes, graph: bytes, promised: Signature, *, host_code: bool) -> Built:
    """The plan with the weights of ``graph``.

    Args:
        plan: refittable, its digest checked, made of a graph of the same architecture.
        graph: the ONNX file with the new weights.
        promised: inputs and outputs of both.
        host_code: the plan is version compatible.

    Raises:
        EngineUnavailableError, EngineIncompatibleError, EngineDamagedError,
        DeviceOutOfMemoryError: the plan cannot be loaded here, or no refitter made.
        RefitError: its weights cannot be exchanged, or not all of them by those of ``graph``.
        PackageError: ``graph`` keeps weights in another file.
    """
    began = time.monotonic()
    if has_external_data(graph):
        raise PackageError(f"{GRAPH} keeps weights in another file; export it as one file.")
    loaded = load(plan, promised, host_code=host_code)
    if not loaded.engine.refittable:
        raise RefitError(
            "The plan was not built to be refitted.",
            next_step="Build it with `hilum engine build PACKAGE --refittable`.",
        )
    messages = Messages()
    refitter = make(trt.Refitter, loaded.engine, messages=messages)
    parser = make(trt.OnnxParserRefitter, refitter, messages=messages)
    if not parser.refit_from_bytes(graph):
        raise RefitError(
            f"{label()} cannot take the weights of {GRAPH}: "
            f"{parser_errors(parser) or messages.quote()}"
        )
    missing = refitter.get_missing_weights()
    if missing:
        raise RefitError(
            f"{len(missing)} weights of the plan are not in {GRAPH}, for example {missing[0]}."
        )
    if not refitter.refit_cuda_engine():
        raise RefitError(f"{label()} cannot refit the plan: {messages.quote()}")
    changed = loaded.engine.serialize()
    if changed is None:
        # Said to the runtime's logger, which the engine belongs to.
        reason = loaded.messages.quote()
        raise RefitError(f"{label()} cannot write the refitted plan: {reason}")
    return Built(plan=bytes_of(changed), timing_cache=b"", seconds=time.monotonic() - began)
