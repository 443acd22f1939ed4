"""The films of a data set as training and evaluation read them.

The serving code makes the model inputs, once; they are kept in the training cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.errors import HilumError
from hilum.files import locked
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Placement
from hilum.packages import labels
from hilum.packages.labels import LabelSchema
from hilum.pipeline.version import PIPELINE
from hilum.session import open_local_store
from hilum.settings import Limits, S3Settings, Settings
from hilum.storage import ObjectStore, open_store
from trainer import cache, left_out, manifest
from trainer.arrays import Float32Array, UInt8Array
from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.left_out import REPORT, LeftOut
from trainer.manifest import SPLITS, Record, Split
from trainer.prepare import Job, Problem, prepare_all

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SplitFilms:
    """The films of one split, ready for the model."""

    images: UInt8Array  # model inputs [N, 1, S, S], memory-mapped
    targets: Float32Array  # [N, K], NaN = unknown
    records: tuple[Record, ...]
    sizes: npt.NDArray[np.int32]  # [N, 2]: height and width of the stored film

    def __len__(self) -> int:
        return len(self.records)

    def placement(self, index: int) -> Placement:
        """Where film ``index`` lies in its model input."""
        height, width = (int(n) for n in self.sizes[index])
        return Placement.letterbox(height=height, width=width, size=self.images.shape[-1])

    def absent(self, schema: LabelSchema) -> tuple[str, ...]:
        """Labels without a positive film: they can neither be learnt nor measured here."""
        present = np.nansum(self.targets, axis=0) > 0
        return tuple(label for label, p in zip(schema.labels, present, strict=True) if not p)


def load(
    path: Path,
    schema: LabelSchema,
    spec: PreprocessSpec,
    *,
    cache_dir: Path,
    progress: Progress | None = None,
    max_bad_fraction: float = 0.01,
    store: ObjectStore | None = None,
    limits: Limits | None = None,
    processes: int | None = None,
    needed: Sequence[Split] = SPLITS,
) -> dict[Split, SplitFilms]:
    """The splits of the data-set table at ``path``.

    The first call prepares every film and keeps the images in ``cache_dir``, under the digests of
    table and preprocessing. Later calls map the file and decode nothing. A call that was stopped
    goes on where it was. A film that is missing, unreadable or listed twice is left out, listed
    in ``left-out.csv`` beside the prepared images, and counted in a warning. Each call tries the
    films again that were left out for another reason than being listed twice.

    Args:
        progress: called with the number of films that are prepared and the number of all.
        max_bad_fraction: largest share of the films that may be left out.
        store: of the films; ``None``: files, and S3 by boto3's own configuration.
        limits: for one film; ``None``: the defaults.
        processes: largest number of processes that prepare films; ``None``: as many as there are
            cores, if there is enough work for them.
        needed: splits to prepare and load, each of which must have films.

    Raises:
        DataError: the data-set table is not usable, or a needed split has no film left.
        BadImagesError: more films would be left out than is allowed.
        CacheWriteError: the disk is full.
        StorageUnavailableError, CredentialsRejectedError: the store cannot be used.
    """
    records = [r for r in manifest.read(path, schema) if r.split in needed]
    _check_splits({record.split for record in records}, needed, path.name)
    base, limits = path.parent.resolve(), limits or Limits()
    job = Job(
        folder=_folder(cache_dir, path, spec, needed),
        uris=[r.uri if "://" in r.uri else str(base / r.uri) for r in records],
        store=store or open_store(S3Settings(), limits, allow_local=True),
        limits=limits,
        spec=spec,
    )
    unusable = LeftOut(job.folder, records, max_bad_fraction)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The folder of prepared images cannot be made ({error.strerror}).",
            next_step="Correct HILUM_CACHE_DIR or the permissions of the folder it names.",
        ) from None
    with locked(job.folder.with_suffix(".lock")):
        about = cache.about(job.folder)
        if about is not None and _can_read_more(job):
            log.info("films that were left out can be read now: they are prepared")
            cache.reopen(job.folder, len(records), spec.size)
            about = None
        if about is None:
            about = _fill(job, records, unusable, progress, processes)
    counts: dict[str, int] = about["left_out"]
    unusable.check(counts)
    if counts:
        log.warning("films left out: %s; see %s", left_out.in_words(counts), job.folder / REPORT)
    splits = _read_splits(job.folder, records)
    _check_splits(set(splits), needed, path.name)
    for name, films in splits.items():
        if absent := films.absent(schema):
            log.warning("split %s has no positive of: %s", name, ", ".join(absent))
    return splits


def load_configured(
    config: TrainConfig, settings: Settings, progress: Progress | None = None
) -> dict[Split, SplitFilms]:
    """The splits of the data-set table of ``config``, see :func:`load`."""
    return load(
        config.manifest,
        labels.schema(config.model.label_schema),
        config.preprocess,
        cache_dir=settings.cache_dir / "prepared",
        progress=progress,
        max_bad_fraction=config.data.max_bad_fraction,
        store=open_local_store(settings),
        limits=settings.limits,
    )


def _folder(cache_dir: Path, path: Path, spec: PreprocessSpec, needed: Sequence[Split]) -> Path:
    """The folder of splits of one data-set table, at one place, under one preprocessing."""
    identity = f"{PIPELINE}/{manifest.digest(path)}/{path.parent.resolve()}"
    if set(needed) != set(SPLITS):
        identity += f"/{sorted(needed)}"
    return cache_dir / spec.digest[:16] / hashlib.sha256(identity.encode()).hexdigest()[:24]


def _check_splits(found: set[Split], needed: Sequence[Split], name: str) -> None:
    for split in needed:
        if split not in found:
            raise DataError(f"{name} has no film in split {split!r}.")


def _can_read_more(job: Job) -> bool:
    """Whether a film that was left out of a finished folder can be read now."""
    rows = left_out.rows_to_retry(job.folder)
    if not rows:
        return False
    found: list[Problem | None] = []
    # Beside the finished folder, whose images a trial must not touch.
    with TemporaryDirectory(dir=job.folder.parent, prefix=".trial-") as name:
        trial = replace(job, folder=Path(name), uris=[job.uris[row] for row in rows])
        with closing(trial.open_folder()) as folder:
            try:
                # In decode processes: a film that crashed its decoder must not crash this process.
                prepare_all(trial, folder, found.append, processes=2)
            except HilumError as error:
                log.warning("films that were left out cannot be tried again (%s)", error.code)
    return None in found


def _fill(
    job: Job,
    records: Sequence[Record],
    unusable: LeftOut,
    progress: Progress | None,
    processes: int | None,
) -> dict[str, Any]:
    """Prepare what the folder of ``job`` lacks, and finish it. Returns what it says of itself."""
    done = 0

    def report(problem: Problem | None) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(records))
        if problem is not None:
            unusable.add(problem)

    with closing(job.open_folder()) as folder:
        prepare_all(job, folder, report, processes=processes)
        unusable.add_duplicates(folder.rows()["sha256"])
        unusable.write_report()
        unusable.check(unusable.counts)
        order = sorted(range(len(records)), key=lambda n: SPLITS.index(records[n].split))
        left = unusable.rows
        kept = [n for n in order if n not in left]
        about: dict[str, Any] = {
            "images": len(kept),
            "left_out": unusable.counts,
            "preprocess": dict(job.spec),
        }
        folder.finish(kept, about)
    return about


def _read_splits(folder: Path, records: Sequence[Record]) -> dict[Split, SplitFilms]:
    images = cache.open_images(folder / "images.npy")
    rows = np.load(folder / "rows.npy")
    used = [records[n] for n in rows["record"]]
    sizes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
    splits: dict[Split, SplitFilms] = {}
    for split in SPLITS:
        where = [n for n, record in enumerate(used) if record.split == split]
        if where:
            chosen = slice(where[0], where[-1] + 1)
            splits[split] = SplitFilms(
                images=images[chosen],
                targets=np.array([record.targets for record in used[chosen]], dtype=np.float32),
                records=tuple(used[chosen]),
                sizes=sizes[chosen],
            )
    return splits
