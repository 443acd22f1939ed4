"""The content of a data-set table in figures, to look at before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from hilum.packages.labels import LabelSchema
from trainer.manifest import SPLITS, Record


def table(records: Sequence[Record], schema: LabelSchema) -> Table:
    """Images, patients, views and positives of each label, by split."""
    out = Table(title=f"{len(records):,} images, schema {schema.id}")
    out.add_column("")
    by_split = {s: [r for r in records if r.split == s] for s in SPLITS}
    for split in by_split:
        out.add_column(split, justify="right")
    out.add_row("images", *(f"{len(rows):,}" for rows in by_split.values()))
    out.add_row("patients", *(f"{len({r.patient for r in rows}):,}" for rows in by_split.values()))
    views = [Counter(r.view or "unknown" for r in rows) for rows in by_split.values()]
    for view in sorted(set().union(*views)):
        out.add_row(f"view: {view}", *(f"{counts[view]:,}" for counts in views))
    for k, label in enumerate(schema.labels):
        out.add_row(label, *(_positives(rows, k) for rows in by_split.values()))
    return out


def notes(records: Sequence[Record], schema: LabelSchema) -> list[str]:
    """What to know before training: labels that a split lacks, and unknown patients."""
    said = []
    for split in SPLITS:
        rows = [record for record in records if record.split == split]
        if not rows:
            said.append(f"Split {split} has no image.")
            continue
        positive = np.nansum(np.array([r.targets for r in rows], dtype=np.float64), axis=0)
        absent = [n for n, count in zip(schema.labels, positive, strict=True) if count == 0]
        if absent:
            said.append(f"Split {split} has no positive of {', '.join(absent)}.")
    if len({r.patient for r in records}) == len(records):
        said.append("Every image counts as a patient of its own, so splits may share patients.")
    return said


def _positives(rows: Sequence[Record], k: int) -> str:
    values = np.array([record.targets[k] for record in rows], dtype=np.float64)
    known = values[~np.isnan(values)]
    if not len(known):
        return "—"
    text = f"{int((known > 0.5).sum()):,} ({100 * (known > 0.5).mean():.2f} %)"
    unknown = len(values) - len(known)
    return f"{text}, {unknown:,} unknown" if unknown else text
