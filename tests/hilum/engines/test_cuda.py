"""CUDA on a machine without it, and the fake that stands for it elsewhere."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from cuda.bindings import runtime as real
from support.fake_cuda import FakeCuda

from hilum.engines import cuda
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineFailedError,
    EngineUnavailableError,
    TransientError,
)


def test_the_fake_has_the_real_functions_and_their_arguments() -> None:
    names = [name for name in dir(FakeCuda) if name.startswith("cuda")]
    assert len(names) > 15
    for name in names:
        theirs, ours = getattr(real, name), inspect.getattr_static(FakeCuda, name)
        if not callable(ours) or isinstance(ours, type):
            assert theirs is ours
            continue
        parameters = [*inspect.signature(ours).parameters][1:]
        assert [*inspect.signature(theirs).parameters] == parameters, name


def test_every_code_that_is_told_apart_exists() -> None:
    known = {error.name: error.value for error in real.cudaError_t}
    assert known.items() >= (cuda._LOST | cuda._OUT_OF_MEMORY).items()
    assert set(cuda._ADVICE) <= set(known)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("cudaErrorMemoryAllocation", DeviceOutOfMemoryError),
        ("cudaErrorIllegalAddress", DeviceLostError),
        ("cudaErrorECCUncorrectable", DeviceLostError),
        ("cudaErrorLaunchFailure", DeviceLostError),
        ("cudaErrorInvalidValue", EngineFailedError),
    ],
)
def test_a_code_becomes_an_error_that_says_whether_to_retry(
    code: str, kind: type[EngineFailedError]
) -> None:
    error = cuda.failure(code, "cudaMemcpyAsync")
    assert type(error) is kind
    assert isinstance(error, TransientError)
    assert "cudaMemcpyAsync" in error.detail


@pytest.mark.parametrize(
    ("count", "error", "said"),
    [
        (0, "cudaSuccess", "the driver sees no GPU"),
        (0, "cudaErrorNoDevice", "the driver sees no GPU"),
        (0, "cudaErrorInsufficientDriver", "there is no NVIDIA driver"),
        (0, "cudaErrorSystemDriverMismatch", "different versions"),
        (1, "cudaErrorUnknown", "CUDA does not start (cudaErrorUnknown)"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, count: int, error: str, said: str
) -> None:
    fake = FakeCuda()
    fake.devices = count
    fake.fail("cudaGetDeviceCount", error)
    monkeypatch.setattr(cuda, "load_runtime", lambda: fake)
    with pytest.raises(EngineUnavailableError) as caught:
        cuda.require_device()
    assert said in caught.value.detail


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "load_runtime", FakeCuda)
    device = cuda.require_device()
    assert (device.name, device.sm, device.driver_cuda) == ("NVIDIA L4", "sm_89", "13.0")


def test_without_the_bindings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(cuda.importlib, "import_module", missing)
    with pytest.raises(EngineUnavailableError) as caught:
        cuda.require_device()
    assert "hilum[tensorrt]" in caught.value.body()["next_step"]


def test_the_real_runtime_answers_without_a_driver() -> None:
    """In a process of its own, with every GPU hidden, whatever this machine has."""
    code = (
        "from hilum.engines import cuda\n"
        "from hilum.errors import EngineUnavailableError\n"
        "try: cuda.require_device()\n"
        "except EngineUnavailableError as error: print(error.detail)\n"
    )
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("There is no usable GPU: ")


def test_importing_the_engines_touches_neither_cuda_nor_tensorrt() -> None:
    code = (
        "import sys, hilum.engines.loading, hilum.engines.tensorrt.runtime\n"
        "import hilum.engines.tensorrt.provision\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('cuda', 'tensorrt', 'tensorrt_rtx', 'onnxruntime', 'torch')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
