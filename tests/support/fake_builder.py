"""The building half of the fake TensorRT: parser, configuration, builder."""

from __future__ import annotations

import base64
import json
from typing import Any

import onnx
from support.fake_trt_types import (
    STRONGLY_TYPED,
    BuilderFlag,
    DataType,
    Dims,
    HardwareCompatibilityLevel,
    IHostMemory,
    ILogger,
    State,
)


def classes(state: State, errors: Any) -> tuple[type, ...]:
    """The classes, which answer as ``state`` says; parsers list their ``errors``."""

    class ITensor:
        def __init__(self, value: Any) -> None:
            kind = value.type.tensor_type
            self.name = value.name
            self.dtype = {2: DataType.UINT8, 1: DataType.FLOAT, 10: DataType.HALF}[kind.elem_type]
            self.shape = Dims([-1, *(d.dim_value for d in kind.shape.dim[1:])])

    class INetworkDefinition:
        def __init__(self) -> None:
            self.graph = b""

        def get_input(self, index: int) -> ITensor:
            return ITensor(onnx.load_from_string(self.graph).graph.input[index])

        def get_output(self, index: int) -> ITensor:
            return ITensor(onnx.load_from_string(self.graph).graph.output[index])

        @property
        def num_inputs(self) -> int:
            return len(onnx.load_from_string(self.graph).graph.input)

        @property
        def num_outputs(self) -> int:
            return len(onnx.load_from_string(self.graph).graph.output)

    class OnnxParser(errors):
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            state.make("OnnxParser", logger)
            self._network = network

        def parse(self, model: bytes) -> bool:
            self._network.graph = model
            self._failed = not state.answer("parse", True)
            return not self._failed

    class IOptimizationProfile:
        def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
            assert input == "image"
            self.batches = min[0], opt[0], max[0]

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> IHostMemory:
            return IHostMemory(self.content + b"+measured")

    class IBuilderConfig:
        builder_optimization_level = 3
        progress_monitor: Any = None

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            self._cache: Any = None
            self._level = HardwareCompatibilityLevel.NONE
            self.flags = {BuilderFlag.TF32}
            self.profile: Any = None
            self.limits: dict[Any, int] = {}

        def set_flag(self, flag: Any) -> None:
            if state.answer("set_flag", True):
                self.flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            if state.answer("clear_flag", True):
                self.flags.discard(flag)

        def get_flag(self, flag: Any) -> bool:
            return flag in self.flags

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self.limits[pool] = pool_size

        @property
        def hardware_compatibility_level(self) -> Any:
            return self._level

        @hardware_compatibility_level.setter
        def hardware_compatibility_level(self, level: Any) -> None:
            if state.answer("hardware_compatibility_level", True):
                self._level = level

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            state.timing_caches.append(bytes(serialized_timing_cache))
            return state.answer("create_timing_cache", ITimingCache(serialized_timing_cache))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            worked = bool(state.answer("set_timing_cache", True))
            if worked:
                self._cache = cache
            return worked

        def get_timing_cache(self) -> Any:
            return self._cache

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self.profile = profile
            return int(state.answer("add_optimization_profile", 0, self._logger))

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            assert state.cuda.devices, "without a driver this object would crash the process"
            state.make("Builder", logger)
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            assert flags == 1 << STRONGLY_TYPED
            return state.answer("create_network", INetworkDefinition(), self._logger)

        def create_builder_config(self) -> Any:
            config = IBuilderConfig(self._logger)
            return state.answer("create_builder_config", config, self._logger)

        def create_optimization_profile(self) -> Any:
            profile = IOptimizationProfile()
            return state.answer("create_optimization_profile", profile, self._logger)

        def build_serialized_network(self, network: Any, config: IBuilderConfig) -> Any:
            state.builds += 1
            state.config = config
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 2)
            goes_on = all(monitor.step_complete("Building engine", step) for step in range(2))
            monitor.phase_finish("Building engine")
            graph = onnx.load_from_string(network.graph).graph
            values = [("INPUT", v) for v in graph.input] + [("OUTPUT", v) for v in graph.output]
            tensors = {}
            for mode, value in values:
                tensor = ITensor(value)
                shape = [tensor.shape[i] for i in range(1, len(tensor.shape))]
                tensors[value.name] = [mode, tensor.dtype.name, shape]
            content = {
                "max": config.profile.batches[2],
                "tensors": tensors,
                "host_code": BuilderFlag.VERSION_COMPATIBLE in config.flags,
                "onnx": base64.b64encode(network.graph).decode(),
            }
            plan = IHostMemory(json.dumps(content).encode()) if goes_on else None
            return state.answer("build_serialized_network", plan, self._logger)

    return (
        ITensor,
        INetworkDefinition,
        OnnxParser,
        IOptimizationProfile,
        ITimingCache,
        IBuilderConfig,
        Builder,
    )
