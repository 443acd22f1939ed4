"""``validation.npz``: the raw outputs of the graph on the validation films, with their labels.

Calibration and operating points can be fitted from it again without films or inference. Patients
are numbered in order of appearance, so the file only says which films belong together.
"""

from __future__ import annotations

import zipfile
from collections.abc import Hashable, Sequence
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
    targets: Float32Array  # [N, K], NaN = unknown
    patients: npt.NDArray[np.int32]  # [N]


def write(
    path: Path, *, raw: Float32Array, targets: Float32Array, patients: Sequence[Hashable]
) -> None:
    """Write raw outputs and labels to ``path``."""
    number: dict[Hashable, int] = {}
    groups = [number.setdefault(patient, len(number)) for patient in patients]
    np.savez_compressed(
        path,
        raw=raw.astype(np.float32),
        targets=targets.astype(np.float32),
        patients=np.array(groups, dtype=np.int32),
    )


def read(source: BinaryIO, labels: int, name: str) -> Outputs:
    """Read a file from :func:`write`, or one made by a site, for a model with ``labels`` labels.

    Patients may be numbers or names. They are renumbered in order of appearance.

    Raises:
        OutputsError: the file has another format, belongs to another model, or has targets other
            than 0, 1 and NaN: the meaning of −1 (uncertain) or 100 (percent) is not guessed.
    """
    try:
        with np.load(source, allow_pickle=False) as arrays:
            raw, targets = arrays["raw"], arrays["targets"]
            patients = arrays["patients"] if "patients" in arrays else np.arange(len(raw))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise OutputsError(
            f"{name} does not hold raw outputs with labels ({type(error).__name__})."
        ) from None
    if raw.ndim != 2 or raw.shape != targets.shape or raw.shape[1] != labels or not len(raw):
        raise OutputsError(
            f"{name}: raw {raw.shape} and targets {targets.shape} must both be [films, {labels}]."
        )
    if raw.dtype.kind not in _NUMBERS or targets.dtype.kind not in _NUMBERS:
        raise OutputsError(f"{name}: raw is {raw.dtype}, targets {targets.dtype}; must be numbers.")
    if not (np.isfinite(raw).all() and (raw >= 0).all() and (raw <= 1).all()):
        raise OutputsError(f"{name}: raw must have values from 0 to 1 only.")
    strange = ~((targets == 0) | (targets == 1) | np.isnan(targets))
    if strange.any():
        raise OutputsError(
            f"{name}: {strange.sum()} targets are neither 0 nor 1 nor NaN (unknown), "
            f"for example {targets[strange][0]:g}."
        )
    if patients.shape != (len(raw),) or patients.dtype.kind not in _IDENTITIES:
        raise OutputsError(
            f"{name}: patients is {patients.dtype} {patients.shape}, but must be a whole number or "
            f"name for each of {len(raw)} films."
        )
    return Outputs(
        raw=raw.astype(np.float32), targets=targets.astype(np.float32), patients=_renumber(patients)
    )


def _renumber(patients: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Number patients in order of appearance, so that a package holds no hospital's identifiers."""
    _, first, which = np.unique(patients, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[which]
