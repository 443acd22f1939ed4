"""Choose and load TensorRT's Python bindings. No other module imports them.

``trt`` stands for the module ``tensorrt`` or, after ``use("tensorrt_rtx")``, for ``tensorrt_rtx``,
which has the same interface. Importing either loads several hundred megabytes and touches the
driver, so ``trt`` imports it when an attribute is first used. A process uses one of the two, never
both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, Literal

from hilum.errors import ConfigurationError, EngineUnavailableError

Library = Literal["tensorrt", "tensorrt_rtx"]

__all__ = ["trt"]  # exported although it is imported; the other names are anyway

# TensorRT's names of the types in a signature, and numpy's.
DTYPES: Final = {"UINT8": "uint8", "FLOAT": "float32"}
_EXTRAS: Final[dict[str, str]] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_OLDEST: Final[dict[str, tuple[int, int]]] = {"tensorrt": (10, 16), "tensorrt_rtx": (1, 7)}


class _Bindings:
    """The module of the chosen library, imported when an attribute is first used."""

    def __init__(self) -> None:
        self.chosen: Library = "tensorrt"
        self.loaded: Any = None

    def __getattr__(self, name: str) -> Any:
        if self.loaded is None:
            self.loaded = _load(self.chosen)
        return getattr(self.loaded, name)


_bindings = _Bindings()
if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = _bindings


def use(library: Library, *, module: Any = None) -> None:
    """Make ``trt`` stand for ``library`` in this process from now on.

    Args:
        module: the bindings, instead of the module imported by that name.

    Raises:
        ConfigurationError: the process has already loaded the other library. Both define symbols
            of the same names, so using both crashes.
    """
    if module is None and _bindings.loaded is not None and _bindings.chosen != library:
        raise ConfigurationError(
            f"This process has already loaded {_bindings.chosen}, so it cannot load {library}."
        )
    if module is not None or _bindings.chosen != library:
        _bindings.chosen, _bindings.loaded = library, module


def chosen() -> Library:
    """The library that ``trt`` stands for."""
    return _bindings.chosen


def version() -> str:
    """The library's full version, for example ``11.4.0.106``.

    Raises:
        EngineUnavailableError: it is not installed, does not load, or is too old.
    """
    return str(trt.__version__)


def label() -> str:
    """Name and version of the library, for people."""
    return f"{'TensorRT-RTX' if chosen() == 'tensorrt_rtx' else 'TensorRT'} {version()}"


def builds_without_gpu() -> bool:
    """Whether the library can create a builder on a machine with no driver."""
    return chosen() == "tensorrt_rtx"


def keeps_timings() -> bool:
    """Whether the library has a timing cache, which makes later builds faster."""
    return chosen() == "tensorrt"


def shape_of(dims: trt.Dims) -> tuple[int, ...]:
    """The dimensions as integers. A dynamic dimension is -1."""
    return tuple(int(dims[i]) for i in range(len(dims)))


def bytes_of(memory: trt.IHostMemory) -> bytes:
    """Copy TensorRT's host memory into bytes."""
    # It supports the buffer protocol, although its type does not say so.
    return bytes(memoryview(memory))  # type: ignore[arg-type,unused-ignore]


def _load(library: Library) -> Any:
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise EngineUnavailableError(
            f"{library} is not installed." if missing else f"{library} does not load: {error}.",
            next_step=f"Install `hilum[{_EXTRAS[library]}]`, or set HILUM_ENGINE to `onnxruntime`.",
        ) from None
    found = str(module.__version__)
    oldest = _OLDEST[library]
    if tuple(int(part) for part in found.split(".")[:2]) < oldest:
        raise EngineUnavailableError(
            f"{library} {found} is too old. hilum needs {'.'.join(map(str, oldest))} or newer."
        )
    return module
