"""How every benchmark speaks: a claim, our figure, the peer's, their ratio."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from hilum.machine import cpu_model, usable_cores


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison, both sides measured in the same run. Larger ratio = better for hilum."""

    claim: str
    case: str
    value: float
    peer: str
    peer_value: float
    ratio: float
    target: float
    unit: str

    def json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def text(self) -> str:
        """For people."""
        verdict = "met" if self.ratio >= self.target else "NOT MET"
        return (
            f"{self.claim:22} {self.case:22} {self.value:9.4g} {self.unit} "
            f"| {self.peer}: {self.peer_value:9.4g} | ratio {self.ratio:5.2f} "
            f"(target {self.target:g}, {verdict})"
        )


def interleaved(
    runs: Sequence[Callable[[], object]], *, repeats: int, warmup: int = 1
) -> list[float]:
    """Median seconds of each of ``runs``, taken in turns so that all see the same noise."""
    for run in runs:
        for _ in range(warmup):
            run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def machine() -> str:
    """What this ran on."""
    return f"{cpu_model()}, {usable_cores()} cores, Python {platform.python_version()}"
