"""How a plan is to be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hilum.errors import ConfigurationError
from hilum.packages.manifest import Manifest

# Which other GPUs than the one it is built on a plan may run on.
Hardware = Literal["none", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The batch sizes a plan takes, and the one it is tuned for."""

    minimum: int = 1
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ConfigurationError(
                f"A batch profile needs 1 ≤ minimum ≤ optimum ≤ maximum, not {self.minimum}, "
                f"{self.optimum}, {self.maximum}."
            )


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a plan depends on besides the graph, the GPU and the library.

    Precision is not among them: it is the graph's.
    """

    profile: Profile
    optimization_level: int = 3  # 0 builds fastest, 5 searches longest
    hardware: Hardware = "none"
    version_compatible: bool = False  # runs on later versions of the same major one too
    tf32: bool = False  # float32 convolutions round their inputs to 10 bits: faster, less exact
    workspace_bytes: int = 0  # scratch memory of one layer; 0: as much as there is

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise ConfigurationError("optimization_level goes from 0 to 5.")


def profile_of(manifest: Manifest, *, batch_size: int) -> Profile:
    """From one image to the manifest's largest batch, tuned for ``batch_size``."""
    maximum = manifest.input.max_batch
    return Profile(optimum=min(batch_size, maximum), maximum=maximum)
