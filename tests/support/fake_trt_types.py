"""Enumerations, values and arranged failures that the two halves of the fake TensorRT share."""

from __future__ import annotations

import enum
from collections import defaultdict
from typing import Any

from support.fake_cuda import FakeCuda

DataType = enum.Enum("DataType", ["UINT8", "FLOAT", "HALF"])
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
)
BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE"])
HardwareCompatibilityLevel = enum.Enum(
    "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
)
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
ErrorCode = enum.Enum("ErrorCode", ["SUCCESS", "INVALID_NODE"])
STRONGLY_TYPED = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = STRONGLY_TYPED


class ILogger:
    Severity = Severity

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class Dims:
    def __init__(self, shape: list[int]) -> None:
        assert isinstance(shape, list), "10.x makes Dims of a list only"
        self._shape = shape

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, arg0: int) -> int:
        return self._shape[arg0]


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class State:
    """What a test arranges, and what happened."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.failing: dict[str, list[Any]] = defaultdict(list)  # method → what it returns, once
        self.said: str = ""  # logged as an error when a call fails
        self.contexts: list[Any] = []
        self.executions: list[int] = []  # batch of each run of the network
        self.missing_weights: list[str] = []
        self.timing_caches: list[bytes] = []
        self.flags: set[str] = set()
        self.builds = 0
        self.config: Any = None  # of the last build

    def make(self, kind: str, logger: Any) -> None:
        """Called when an object of that class is made; fails as the real bindings do."""
        if self.answer(kind, True, logger) is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def answer(self, method: str, usual: Any, logger: Any = None) -> Any:
        if not self.failing[method]:
            return usual
        if self.said and logger is not None:
            logger.log(Severity.ERROR, self.said)
        return self.failing[method].pop(0)
