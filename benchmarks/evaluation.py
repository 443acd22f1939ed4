"""``python -m benchmarks.evaluation [--json] [--films N]``: intervals over patients on a test split
of ChestX-ray14's size, against the usual loop that calls scikit-learn for every resample.

Both give AUROC and average precision of 14 labels; ours also gives everything else of a report
(micro and macro, sensitivity, specificity, PPV, NPV, F1), which only counts against it. The loop
is run for a few resamples and scaled.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.report import Line
from hilum.packages.labels import CHESTXRAY14
from hilum.packages.manifest import OperatingPoint
from trainer.evaluation import published
from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.figures import figures
from trainer.evaluation.scored import Scored
from trainer.manifest import Record

REPLICATES = 1000
_LOOPED = 3
_FILMS_A_PATIENT = 9


def split(films: int) -> Scored:
    """A test split with the official prevalence of every label and scores of AUROC near 0.8."""
    rng = np.random.default_rng(0)
    table = published.table()
    share = np.array([table[label].percent_test / 100 for label in CHESTXRAY14.labels])
    targets = (rng.random((films, len(share))) < share).astype(np.float32)
    score = rng.normal(1.2 * targets, 1).astype(np.float32)
    return Scored(
        schema=CHESTXRAY14,
        records=tuple(
            Record(uri=str(n), patient=str(n // _FILMS_A_PATIENT), split="test", targets=())
            for n in range(films)
        ),
        sizes=np.zeros((films, 2), dtype=np.int32),
        targets=targets,
        probability=1 / (1 + np.exp(-score)),
        cam=None,
        input_size=224,
        points={label: OperatingPoint(threshold=0.5, rule="x") for label in CHESTXRAY14.labels},
    )


def loop(scored: Scored, replicates: int) -> None:
    """Do what is usual: draw patients, index their films, call scikit-learn."""
    patient = np.array([int(name) for name in scored.patients])
    rows = [np.flatnonzero(patient == name) for name in np.unique(patient)]
    rng = np.random.default_rng(0)
    for _ in range(replicates):
        drawn = np.concatenate([rows[n] for n in rng.integers(len(rows), size=len(rows))])
        for k in range(scored.targets.shape[1]):
            target, score = scored.targets[drawn, k], scored.probability[drawn, k]
            roc_auc_score(target, score)
            average_precision_score(target, score)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--films", type=int, default=published.OFFICIAL_TEST_IMAGES)
    arguments = parser.parse_args()
    scored = split(arguments.films)
    begin = time.perf_counter()
    figures(scored, Bootstrap(replicates=REPLICATES))
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    loop(scored, _LOOPED)
    peer = (time.perf_counter() - begin) / _LOOPED * REPLICATES
    line = Line(
        claim="bootstrap_25k",
        case=f"{arguments.films} films, {REPLICATES} draws",
        value=ours,
        peer="scikit-learn, a loop",
        peer_value=peer,
        ratio=peer / ours,
        target=20,
        unit="s",
    )
    print(line.json() if arguments.json else line.text())


if __name__ == "__main__":
    main()
