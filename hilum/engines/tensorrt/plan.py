"""From the bytes of a plan to an engine whose inputs and outputs are the promised ones."""

from __future__ import annotations

from dataclasses import dataclass

from hilum.engines import cuda
from hilum.engines.tensorrt.library import label, shape_of, trt
from hilum.engines.tensorrt.messages import Messages
from hilum.engines.tensorrt.network import Signature
from hilum.engines.tensorrt.objects import make, raise_if_out_of_memory
from hilum.errors import EngineDamagedError, EngineIncompatibleError


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A plan in memory. The runtime and the logger must outlive the engine."""

    engine: trt.ICudaEngine
    runtime: trt.Runtime
    messages: Messages
    max_batch: int


def load(plan: bytes, promised: Signature, *, host_code: bool) -> Loaded:
    """The engine of ``plan``.

    Args:
        plan: bytes whose digest has been checked: loading them runs what is in them.
        promised: inputs and outputs.
        host_code: the plan is version compatible, and brings the runtime it needs as code.

    Raises:
        EngineUnavailableError: no TensorRT, or no GPU or driver it can use.
        EngineIncompatibleError: this TensorRT does not load it on this GPU; its words are quoted.
        DeviceOutOfMemoryError: there is no room for it.
        EngineDamagedError: what loads is not an engine of the promised inputs and outputs.
    """
    cuda.require_device()  # without a driver the runtime is an object that crashes
    messages = Messages()
    runtime = make(trt.Runtime, messages=messages)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise_if_out_of_memory(messages, "the plan")
        raise EngineIncompatibleError(
            f"{label()} does not load the plan: {messages.quote()}",
            next_step="Build it again on this machine: `hilum engine build PACKAGE --force`.",
        )
    return Loaded(
        engine=engine,
        runtime=runtime,
        messages=messages,
        max_batch=_check(engine, promised),
    )


def _check(engine: trt.ICudaEngine, promised: Signature) -> int:
    """The largest batch of ``engine``, whose inputs and outputs are the promised ones."""
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for position in range(engine.num_io_tensors):
        name = engine.get_tensor_name(position)
        kind = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        kind[name] = (engine.get_tensor_dtype(name).name, shape_of(engine.get_tensor_shape(name)))
    for found, expected in ((inputs, promised.inputs), (outputs, promised.outputs)):
        with_batch = {n: (dtype, (-1, *shape)) for n, (dtype, shape) in expected.items()}
        if found != with_batch:
            raise EngineDamagedError(
                f"The plan has {_text(found)}; this package needs {_text(with_batch)}."
            )
    _, _, largest = engine.get_tensor_profile_shape("image", 0)
    return int(largest[0])


def _text(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(s)}" for name, (dtype, s) in sorted(tensors.items()))
