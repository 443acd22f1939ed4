"""Random numbers that depend on what they are for, not on what was drawn before.

The order of an epoch, the augmentation of an image in it and the dropout of a step are each seeded
by name. So a run that resumes draws what it would have drawn, and an image is augmented alike
whichever process it falls to.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def seed(base: int, purpose: str, *counters: int) -> int:
    """A seed of 63 bits for ``purpose`` at ``counters``, under the run's seed ``base``."""
    text = f"{base}/{purpose}/{'/'.join(str(counter) for counter in counters)}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(count: int, base: int, epoch: int) -> npt.NDArray[np.intp]:
    """Every index below ``count`` once, in the random order of ``epoch``."""
    return np.random.default_rng(seed(base, "order", epoch)).permutation(count)
