"""``validation.npz``: what the graph gave on the validation films, with their labels.

Calibration and operating points can be fitted again from it, with no film and no inference.
Patients are numbers in order of appearance: which films belong together, and nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from export.errors import OutputsError

_NUMBERS: Final = "fiub"  # kinds of NumPy's types
_IDENTITIES: Final = "iuUS"
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Raw outputs with labels."""

    raw: Float32Array  # [N, K], before calibration
    targets: Float32Array  # [N, K], NaN = not known
    patients: npt.NDArray[np.int32]  # [N]


def write(path: Path, *, raw: Float32Array, targets: Float32Array, patients: Sequence[str]) -> None:
    """Put them at ``path``."""
    number: dict[str, int] = {}
    groups = [number.setdefault(patient, len(number)) for patient in patients]
    np.savez_compressed(
        path,
        raw=raw.astype(np.float32),
        targets=targets.astype(np.float32),
        patients=np.array(groups, dtype=np.int32),
    )


def read(source: BinaryIO, labels: int, name: str) -> Outputs:
    """What :func:`write` wrote, or a site put together itself, for a model of ``labels`` labels.

    Patients, numbers or names, come out as numbers in order of appearance.

    Raises:
        OutputsError: it is not such a file, not of this model, or has labels that are neither 0
            nor 1 nor NaN: what −1 (uncertain) or 100 (percent) mean is not guessed at.
    """
    try:
        with np.load(source, allow_pickle=False) as arrays:
            raw, targets = arrays["raw"], arrays["targets"]
            patients = arrays["patients"] if "patients" in arrays else np.arange(len(raw))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise OutputsError(
            f"{name} holds no raw outputs with labels ({type(error).__name__})."
        ) from None
    if raw.ndim != 2 or raw.shape != targets.shape or raw.shape[1] != labels or not len(raw):
        raise OutputsError(
            f"{name}: raw is {raw.shape}, targets {targets.shape}; expected [films, {labels}] both."
        )
    if raw.dtype.kind not in _NUMBERS or targets.dtype.kind not in _NUMBERS:
        raise OutputsError(f"{name}: raw is {raw.dtype}, targets {targets.dtype}; expected float.")
    if not (np.isfinite(raw).all() and (raw >= 0).all() and (raw <= 1).all()):
        raise OutputsError(f"{name}: raw has values that are no probabilities.")
    strange = ~((targets == 0) | (targets == 1) | np.isnan(targets))
    if strange.any():
        raise OutputsError(
            f"{name}: {strange.sum()} targets are neither 0 nor 1 nor NaN (not known), "
            f"for example {targets[strange][0]:g}."
        )
    if patients.shape != (len(raw),) or patients.dtype.kind not in _IDENTITIES:
        raise OutputsError(
            f"{name}: patients is {patients.dtype} {patients.shape}; expected a whole number or "
            f"name for each of {len(raw)} films."
        )
    return Outputs(
        raw=raw.astype(np.float32), targets=targets.astype(np.float32), patients=_numbered(patients)
    )


def _numbered(patients: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """In order of appearance, so that no name or number of a hospital's goes into a package."""
    _, first, which = np.unique(patients, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[which]
