"""Load a plan into TensorRT, and check its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from hilum.engines import cuda
from hilum.engines.tensorrt.library import label, shape_of, trt
from hilum.engines.tensorrt.network import Signature
from hilum.engines.tensorrt.objects import Messages, make, raise_if_out_of_memory
from hilum.errors import EngineDamagedError, EngineIncompatibleError


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A plan in memory. The runtime and the logger must outlive the engine."""

    engine: trt.ICudaEngine
    runtime: trt.Runtime
    messages: Messages
    max_batch: int


def load(plan: bytes, promised: Signature, *, host_code: bool) -> Loaded:
    """Load ``plan``.

    Args:
        plan: content of the plan, with its digest checked: loading a plan runs code in it.
        promised: its expected inputs and outputs.
        host_code: the plan is version compatible, so it contains the runtime code it needs.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU or driver that it can use.
        EngineIncompatibleError: TensorRT cannot load the plan on this GPU. The detail quotes it.
        DeviceOutOfMemoryError: the GPU has too little memory.
        EngineDamagedError: the inputs or outputs of the plan are not ``promised``.
    """
    cuda.require_device()  # without a driver, using a runtime crashes the process
    messages = Messages()
    runtime = make(trt.Runtime, messages=messages)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise_if_out_of_memory(messages, "the plan")
        raise EngineIncompatibleError(
            f"{label()} cannot load the plan: {messages.quote()}",
            next_step="Build it again on this machine with `hilum engine build PACKAGE --force`.",
        )
    return Loaded(
        engine=engine,
        runtime=runtime,
        messages=messages,
        max_batch=_check(engine, promised),
    )


def _check(engine: trt.ICudaEngine, promised: Signature) -> int:
    """Check the inputs and outputs of ``engine``, and return its largest batch."""
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
                f"The plan has {_text(found)}, but the package needs {_text(with_batch)}."
            )
    _, _, largest = engine.get_tensor_profile_shape("image", 0)
    return int(largest[0])


def _text(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(s)}" for name, (dtype, s) in sorted(tensors.items()))
