"""TensorRT-RTX on this machine's CPU: the real parser and builder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hilum.engines.tensorrt import library


@pytest.fixture
def rtx() -> Iterator[None]:
    """``trt`` stands for tensorrt_rtx while the test runs."""
    import tensorrt_rtx

    before = library._bindings.chosen, library._bindings.loaded
    library.use("tensorrt_rtx", module=tensorrt_rtx)
    yield
    library._bindings.chosen, library._bindings.loaded = before
