"""What is in a data-set table, for a person to look at before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np
from rich.table import Table

from hilum.packages.labels import LabelSchema
from trainer.manifest import Record, Split


def table(records: Sequence[Record], schema: LabelSchema) -> Table:
    """Images, patients, views and positives of each label, by split."""
    out = Table(title=f"{len(records):,} images, schema {schema.id}")
    out.add_column("")
    by_split = {s: [r for r in records if r.split == s] for s in get_args(Split)}
    for split in by_split:
        out.add_column(split, justify="right")
    out.add_row("images", *(f"{len(rows):,}" for rows in by_split.values()))
    out.add_row("patients", *(f"{len({r.patient for r in rows}):,}" for rows in by_split.values()))
    views = Counter(record.view or "not said" for record in records)
    for view in sorted(views):
        counts = (sum((r.view or "not said") == view for r in rows) for rows in by_split.values())
        out.add_row(f"view: {view}", *(f"{count:,}" for count in counts))
    for k, label in enumerate(schema.labels):
        out.add_row(label, *(_positives(rows, k) for rows in by_split.values()))
    return out


def notes(records: Sequence[Record], schema: LabelSchema) -> list[str]:
    """What the reader should know before training: labels a split lacks, and unknown fields."""
    said = []
    for split in get_args(Split):
        rows = [record for record in records if record.split == split]
        if not rows:
            said.append(f"Split {split} has no image.")
            continue
        positive = np.nansum(np.array([r.targets for r in rows], dtype=np.float64), axis=0)
        absent = [n for n, count in zip(schema.labels, positive, strict=True) if count == 0]
        if absent:
            said.append(f"Split {split} has no positive of {', '.join(absent)}.")
    alone = len({r.patient for r in records}) == len(records)
    if alone:
        said.append("Every image is a patient of its own: nothing guards against a leak.")
    return said


def _positives(rows: Sequence[Record], k: int) -> str:
    values = np.array([record.targets[k] for record in rows], dtype=np.float64)
    known = values[~np.isnan(values)]
    if not len(known):
        return "—"
    text = f"{int((known > 0.5).sum()):,} ({100 * (known > 0.5).mean():.2f} %)"
    unknown = len(values) - len(known)
    return f"{text}, {unknown:,} not known" if unknown else text
