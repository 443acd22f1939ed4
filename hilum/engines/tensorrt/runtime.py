"""The TensorRT engine, which runs one plan on one GPU.

All memory is allocated when the plan is loaded, for its largest batch. Batches run in buckets (1,
2, 4, … largest). Each bucket has its own execution context, because a recorded CUDA graph is valid
only as long as the shapes of its context do not change. All contexts share their scratch memory,
since they run one after the other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.engines import Signature, Tensors, cuda
from hilum.engines.cuda import Stream
from hilum.engines.gpu import Float32Array, GpuEngine, UInt8Array
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.library import DTYPES, label, shape_of, trt
from hilum.engines.tensorrt.objects import Messages, make, raise_if_out_of_memory
from hilum.engines.tensorrt.record import PlanRecord, graph_sha256
from hilum.errors import (
    DeviceLostError,
    EngineDamagedError,
    EngineFailedError,
    EngineIncompatibleError,
    HilumError,
)
from hilum.packages.load import Package

log = logging.getLogger(__name__)


def buckets(largest: int) -> tuple[int, ...]:
    """The batch sizes that run: powers of two, and ``largest``."""
    return (*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest)


class TensorRTEngine(GpuEngine):
    """Runs a package's plan on the GPU of this process.

    Args:
        record, plan: the record and the content of the plan, with its digest checked (see
            :meth:`PlanStore.read`).
        cuda_graphs: record the run of each bucket as a CUDA graph, and launch that.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU.
        EngineIncompatibleError, EngineDamagedError: the plan belongs to another graph, or does not
            load on this machine.
        DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: the GPU has too little memory,
            or it or TensorRT failed. All memory has been freed.
    """

    def __init__(
        self, package: Package, record: PlanRecord, plan: bytes, *, cuda_graphs: bool = True
    ) -> None:
        key, signature = record.key, Signature.of(package.manifest)
        if key.graph_sha256 != graph_sha256(package.manifest):
            raise EngineIncompatibleError("The TensorRT plan was built from another graph.")
        device = cuda.require_device()
        self._messages = Messages()
        # The runtime and the logger must outlive the engine.
        self._runtime, self._engine = load(
            plan, signature, self._messages, host_code=key.version_compatible
        )
        kind, sm = library.chosen().replace("_", ""), device.sm.replace("_", "")
        name = f"{kind}-{key.library_version}-{sm}-{key.precision}"
        _, _, largest = self._engine.get_tensor_profile_shape("image", 0)
        super().__init__(name, signature, int(largest[0]))
        self._cuda = cuda.load_runtime()
        self._stream = Stream(self._cuda)
        self._queue: dict[int, Callable[[], None]] = {}  # by bucket
        self._contexts: list[trt.IExecutionContext] = []
        try:
            self._device: dict[str, int] = {}
            self._host: dict[str, npt.NDArray[Any]] = {}
            self._scratch_size = self._engine.device_memory_size_v2
            self._scratch = self._stream.allocate(self._scratch_size)
            for tensor, (dtype, shape) in (signature.inputs | signature.outputs).items():
                whole = (self.max_batch, *shape[1:])
                size = math.prod(whole) * np.dtype(dtype).itemsize
                self._device[tensor] = self._stream.allocate(size)
                self._host[tensor] = self._stream.pin(dtype, whole)
            for count in buckets(self.max_batch):
                self._queue[count] = self._prepare(count, cuda_graphs=cuda_graphs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See :meth:`GpuEngine.close`."""
        self._queue.clear()
        self._contexts.clear()
        self._stream.close()

    def _run(self, images: UInt8Array, probability: Float32Array, cam: Float32Array) -> None:
        count = len(images)
        bucket = next(b for b in self._queue if b >= count)
        self._host["image"][:count] = images
        self._host["image"][count:bucket] = 0  # overwrite the films of the last batch
        try:
            self._queue[bucket]()
            self._stream.wait()
        except BaseException:
            self._settle()
            raise
        probability[...], cam[...] = self._host["probability"][:count], self._host["cam"][:count]

    def _settle(self) -> None:
        """Wait for the work in progress, because its memory is reused, and note a lost GPU."""
        try:
            self._stream.wait()
        except DeviceLostError as lost:
            self._lost = lost
        except HilumError:
            pass  # the results of that run are discarded anyway

    def _prepare(self, count: int, *, cuda_graphs: bool) -> Callable[[], None]:
        """Return a function that queues a run of ``count`` images. If the run cannot be recorded
        as a CUDA graph, it is queued without one: slower, with the same numbers."""
        context = self._context(count)

        def queue() -> None:
            self._copy("image", count, to_device=True)
            self._check(context.execute_async_v3(self._stream.handle), "execute_async_v3")
            for output in ("probability", "cam"):
                self._copy(output, count, to_device=False)

        if not cuda_graphs:
            return queue
        queue()  # the first run does set-up work that cannot be recorded
        self._stream.wait()
        try:
            return self._stream.record(queue)
        except DeviceLostError:
            raise
        except EngineFailedError as error:
            log.warning("Batches of %d run without a CUDA graph: %s", count, error.detail)
            return queue

    def _context(self, count: int) -> trt.IExecutionContext:
        """Create an execution context for ``count`` images."""
        context = self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise self._failure("create_execution_context")
        self._contexts.append(context)
        # TensorRT selects profile 0 by default only in the first context of an engine.
        chosen = context.set_optimization_profile_async(0, self._stream.handle)
        self._check(chosen, "set_optimization_profile_async")
        self._stream.wait()
        if self._scratch:
            context.set_device_memory(self._scratch, self._scratch_size)
        shape = trt.Dims([count, *self._shape])
        self._check(context.set_input_shape("image", shape), "set_input_shape")
        for name, address in self._device.items():
            self._check(context.set_tensor_address(name, address), "set_tensor_address")
        if missing := context.infer_shapes():
            raise EngineFailedError(f"TensorRT cannot infer the shape of {', '.join(missing)}.")
        return context

    def _copy(self, name: str, count: int, *, to_device: bool) -> None:
        """Queue a copy of the first ``count`` rows of a tensor."""
        rows = self._host[name][:count]
        target, source = self._device[name], rows.ctypes.data
        if not to_device:
            target, source = source, target
        self._stream.copy(target, source, rows.nbytes)

    def _check(self, worked: bool, where: str) -> None:
        if not worked:
            raise self._failure(where)

    def _failure(self, where: str) -> EngineFailedError:
        """The error of a failed call: CUDA's last error if there is one, else TensorRT's."""
        (error, *_) = self._cuda.cudaGetLastError()
        if error.name != "cudaSuccess":
            return cuda.failure(error.name, where)
        return EngineFailedError(f"TensorRT failed in {where}: {self._messages.quote()}")


def load(
    plan: bytes, promised: Signature, messages: Messages, *, host_code: bool
) -> tuple[trt.Runtime, trt.ICudaEngine]:
    """Load ``plan``, and check its inputs and outputs.

    Loading a plan runs code in it, so its digest must have been checked. With ``host_code``, it is
    version compatible and contains the runtime code that it needs.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU or driver that it can use.
        EngineIncompatibleError: TensorRT cannot load the plan on this GPU. The detail quotes it.
        DeviceOutOfMemoryError: the GPU has too little memory.
        EngineDamagedError: the inputs or outputs of the plan are not ``promised``.
    """
    cuda.require_device()  # without a driver, using a runtime crashes the process
    runtime = make(trt.Runtime, messages=messages)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise_if_out_of_memory(messages, "the plan")
        raise EngineIncompatibleError(
            f"{label()} cannot load the plan: {messages.quote()}",
            next_step="Build it again on this machine with `hilum engine build PACKAGE --force`.",
        )
    inputs: Tensors = {}
    outputs: Tensors = {}
    for position in range(engine.num_io_tensors):
        name = engine.get_tensor_name(position)
        kind = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        dtype = engine.get_tensor_dtype(name).name
        kind[name] = (DTYPES.get(dtype, dtype), shape_of(engine.get_tensor_shape(name)))
    if (found := Signature(inputs=inputs, outputs=outputs)) != promised:
        raise EngineDamagedError(f"The plan has {found}, but must have {promised}.")
    return runtime, engine
