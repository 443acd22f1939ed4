"""Random numbers that depend on their purpose, not on what was drawn before.

The order of an epoch, the augmentation of a film in it and the dropout of a step each have a seed
of their own. A run that resumes therefore draws the same numbers, and a film is augmented alike in
every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed(base: int, purpose: str, *counters: int) -> int:
    """A seed of 63 bits for ``purpose`` at ``counters``, under the run's seed ``base``."""
    text = f"{base}/{purpose}/{'/'.join(str(counter) for counter in counters)}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def make_reproducible(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Keep the caller's random numbers unchanged. On a GPU, use only algorithms that always round
    alike if ``exact``, else the fastest."""
    gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled())
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[device] if gpu else []):
        try:
            if gpu:
                cudnn.deterministic, cudnn.benchmark = exact, not exact
                torch.use_deterministic_algorithms(exact, warn_only=True)
            yield
        finally:
            if gpu:
                cudnn.deterministic, cudnn.benchmark = before[:2]
                torch.use_deterministic_algorithms(before[2], warn_only=warned)
