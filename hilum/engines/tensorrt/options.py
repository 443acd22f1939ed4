"""Options for building a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hilum.errors import ConfigurationError
from hilum.packages.manifest import Manifest

# The GPUs, besides the one it was built on, that a plan may run on.
Hardware = Literal["none", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The smallest and largest batch that a plan runs, and the one it is tuned for."""

    minimum: int = 1
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ConfigurationError(
                f"The batch profile {self.minimum}, {self.optimum}, {self.maximum} must satisfy "
                "1 ≤ minimum ≤ optimum ≤ maximum."
            )


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Everything a plan depends on besides the graph, the GPU and the library.

    The precision is not an option: the graph decides it.
    """

    profile: Profile
    optimization_level: int = 3  # 0 builds fastest, 5 searches longest
    hardware: Hardware = "none"
    version_compatible: bool = False  # also runs on later versions with the same major version
    tf32: bool = False  # float32 convolutions round their inputs to 10 bits: faster, less exact
    workspace_bytes: int = 0  # limit of a layer's scratch memory; 0: no limit

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise ConfigurationError("optimization_level must be between 0 and 5.")


def profile_of(manifest: Manifest, *, batch_size: int) -> Profile:
    """A profile from one image to the manifest's ``max_batch``, tuned for ``batch_size``."""
    maximum = manifest.input.max_batch
    return Profile(optimum=min(batch_size, maximum), maximum=maximum)
