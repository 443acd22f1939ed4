"""What a plan is built from, its record, and where it may run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from hilum.engines import cuda
from hilum.engines.cuda import Device
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.library import Library
from hilum.errors import EngineUnavailableError
from hilum.packages.manifest import Manifest, Sha256

# The GPUs, besides the one it was built on, that a plan may run on.
Hardware = Literal["none", "same_compute_capability", "ampere_plus"]
ANY_DEVICE = "any"  # without a GPU, TensorRT-RTX builds for all GPUs that it supports


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The library and the GPU of this process."""

    library: Library
    library_version: str
    device: Device | None  # None: TensorRT-RTX without a GPU, which can only build plans


def this_machine() -> Machine:
    """The library and GPU that plans are built for and run on in this process.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU and the library needs one.
    """
    try:
        device = cuda.require_device()
    except EngineUnavailableError:
        if not library.builds_without_gpu():
            raise
        device = None
    return Machine(library=library.chosen(), library_version=library.version(), device=device)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildOptions(_Frozen):
    """Everything a plan depends on besides the graph, the GPU and the library.

    The precision is not an option: the graph decides it.
    """

    profile: tuple[int, int, int] = Field(description="batch sizes: minimum, optimum, maximum")
    optimization_level: int = Field(default=3, description="0 builds fastest, 5 searches longest")
    hardware: Hardware = "none"
    version_compatible: bool = Field(
        default=False, description="also runs on later versions with the same major version"
    )
    tf32: bool = Field(
        default=False,
        description="float32 convolutions round to 10 bits: faster, less exact",
    )
    workspace_bytes: int = Field(
        default=0, description="limit of a layer's scratch memory; 0: no limit"
    )


def profile_of(manifest: Manifest, *, batch_size: int) -> tuple[int, int, int]:
    """A profile from one image to the manifest's ``max_batch``, tuned for ``batch_size``."""
    maximum = manifest.input.max_batch
    return 1, min(batch_size, maximum), maximum


def graph_sha256(manifest: Manifest) -> str:
    """The sha256 of the graph that TensorRT runs."""
    return manifest.files[manifest.graph_for("tensorrt").graph]


class PlanKey(BuildOptions):
    """Everything a plan depends on. Builds with equal keys are interchangeable."""

    graph_sha256: Sha256
    precision: str = Field(description="precision of the graph")
    library: Library
    library_version: str
    device: str = Field(description="name of the GPU, or `any`")
    sm: str = Field(description="compute capability, for example `sm_89`, or `any`")
    cuda: str = Field(description="newest CUDA version that the driver supports, or `any`")
    refittable: bool = Field(default=False, description="True only of plans of release 0.1")

    @property
    def id(self) -> str:
        """32 hex digits, with which the names of the plan's files begin."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class PlanRecord(_Frozen):
    """A plan in the store."""

    model_config = ConfigDict(extra="ignore")  # release 0.1 wrote two more fields

    format: Literal[1] = 1
    key: PlanKey
    model: str = Field(description="name and version of the package it was built from")
    package: str = Field(description="digest of that package")
    plan_sha256: Sha256
    plan_bytes: int
    built_at: AwareDatetime
    build_seconds: float


def key_for(graph_sha256: str, precision: str, machine: Machine, options: BuildOptions) -> PlanKey:
    """The key of a plan built on ``machine``."""
    device = machine.device
    return PlanKey(
        graph_sha256=graph_sha256,
        precision=precision,
        library=machine.library,
        library_version=machine.library_version,
        device=device.name if device else ANY_DEVICE,
        sm=device.sm if device else ANY_DEVICE,
        cuda=device.driver_cuda if device else ANY_DEVICE,
        **options.model_dump(),
    )


def misfit(key: PlanKey, machine: Machine) -> str | None:
    """Why a plan does not run on ``machine``, or ``None`` if it does."""
    if key.library != machine.library:
        return f"it was built by {key.library}, but this is {machine.library}"
    built, here = _numbers(key.library_version), _numbers(machine.library_version)
    later = key.version_compatible and built[0] == here[0] and built <= here
    if key.library_version != machine.library_version and not later:
        return f"it is for version {key.library_version}, but this is {machine.library_version}"
    return _device_misfit(key, machine.device)


def _device_misfit(key: PlanKey, device: Device | None) -> str | None:
    if device is None:
        return "this machine has no GPU"
    if key.device == ANY_DEVICE:
        return None
    if key.cuda.partition(".")[0] != device.driver_cuda.partition(".")[0]:
        return f"it was built for CUDA {key.cuda}, but this is {device.driver_cuda}"
    fits = {
        "none": (key.device, key.sm) == (device.name, device.sm),
        "same_compute_capability": key.sm == device.sm,
        "ampere_plus": device.compute_capability >= (8, 0),
    }[key.hardware]
    if fits:
        return None
    return f"it was built for {key.device} ({key.sm}), but this is {device.name} ({device.sm})"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
