"""The output of every benchmark: a claim, our figure, the peer's figure, and their ratio."""

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
    """One comparison, both sides measured in the same run. A larger ratio is better for hilum."""

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
        """One line of text."""
        verdict = "met" if self.ratio >= self.target else "NOT MET"
        return (
            f"{self.claim:22} {self.case:22} {self.value:9.4g} {self.unit} "
            f"| {self.peer}: {self.peer_value:9.4g} | ratio {self.ratio:5.2f} "
            f"(target {self.target:g}, {verdict})"
        )


def interleaved(
    runs: Sequence[Callable[[], object]], *, repeats: int, warmup: int = 1
) -> list[float]:
    """The median seconds of each of ``runs``, which take turns so that all have the same noise."""
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
    """A description of this machine."""
    return f"{cpu_model()}, {usable_cores()} cores, Python {platform.python_version()}"
