"""How films become model input: this part of a model package, and its digests."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

# Increase it whenever the same spec gives other bytes than before.
IMPLEMENTATION: Final = 1


class PreprocessSpec(BaseModel):
    """How films become model input. Every model package has one.

    Its digest is part of the identity of each result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=32, le=2048, description="Side S of the square input, pixels.")
    fit: Literal["letterbox"] = "letterbox"
    resample: Literal["bilinear_antialias"] = "bilinear_antialias"
    stretch_percentiles: tuple[float, float] = Field(
        default=(0.5, 99.5),
        description="Percentiles of the film mapped to 0 and 255, after resizing.",
    )
    decode: Literal["exact", "reduced", "fast"] = Field(
        default="exact",
        description=(
            "`exact` decodes every pixel; `reduced` as many as are needed for twice `size`, or "
            "`intermediate`, along the long side; `fast` for 1.25 times."
        ),
    )
    intermediate: int | None = Field(
        default=None,
        ge=64,
        le=4096,
        description="Long side of the 16-bit grey image that the input is made from, if there is "
        "one; a smaller film keeps its size.",
    )
    implementation: Literal[1] = IMPLEMENTATION

    @model_validator(mode="after")
    def _check_order(self) -> PreprocessSpec:
        low, high = self.stretch_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("stretch_percentiles must satisfy 0 <= low < high <= 100")
        if self.intermediate is not None and self.intermediate < self.size:
            raise ValueError("intermediate must not be smaller than size")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digest of specs that are older than intermediates."""
        fields: dict[str, Any] = handler(self)
        if self.intermediate is None:
            del fields["intermediate"]
        return fields

    @property
    def decode_side(self) -> int | None:
        """Minimum number of samples to decode along the long side; ``None`` for every pixel.

        ``benchmarks.reduced`` measures how close the results come to those of every pixel.
        """
        base = self.intermediate or self.size
        return {"exact": None, "reduced": 2 * base, "fast": -(-5 * base // 4)}[self.decode]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of this spec, hexadecimal."""
        return _digest(self.model_dump(mode="json"))

    @property
    def stage_digest(self) -> str:
        """Digest of what a cache keeps of a film. With an intermediate, it covers only what affects
        that, so models of other sizes share it. Otherwise it is :attr:`digest`."""
        if self.intermediate is None:
            return self.digest
        parts = {"decode", "intermediate", "resample", "implementation"}
        return _digest(self.model_dump(mode="json", include=parts))


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
