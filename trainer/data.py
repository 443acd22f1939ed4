"""Records become model input through the serving code, once; epochs read the prepared array."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from hilum.errors import HilumError
from hilum.files import locked, write_atomically
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Placement
from hilum.packages.labels import LabelSchema
from hilum.pipeline.version import PIPELINE
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store
from trainer import filling, manifest, prepared
from trainer.errors import BadImagesError, CacheWriteError, DataError
from trainer.images import open_images
from trainer.manifest import Record, Split
from trainer.outputs import writing
from trainer.prepared import Filling, Problem, Source

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

SPLITS: Final[tuple[Split, ...]] = get_args(Split)
REPORT: Final = "left-out.csv"
_DUPLICATE: Final = "data.duplicate"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A split of a data set, ready for the model."""

    images: npt.NDArray[np.uint8]  # [N, 1, S, S], memory-mapped, never resident as a whole
    targets: npt.NDArray[np.float32]  # [N, K], NaN = not known
    records: tuple[Record, ...]
    sizes: npt.NDArray[np.int32]  # [N, 2]: height and width of the stored film

    def __len__(self) -> int:
        return len(self.records)

    def placement(self, index: int) -> Placement:
        """Where film ``index`` lies in its input."""
        height, width = (int(n) for n in self.sizes[index])
        return Placement.letterbox(height=height, width=width, size=self.images.shape[-1])

    def absent(self, schema: LabelSchema) -> tuple[str, ...]:
        """Labels without a positive here: nothing can be learnt or measured of them."""
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
) -> dict[Split, Prepared]:
    """The splits of the data-set table at ``path``.

    The first time every image is prepared and kept in ``cache_dir``, under the digests of table
    and preprocessing; later the file is mapped and nothing is decoded. A run that was stopped goes
    on where it was. An image that is missing, unreadable or there twice is left out, listed in
    ``left-out.csv`` beside the prepared ones, and counted in a warning. What was left out for
    another reason than being there twice is tried again each time, and taken once it can be read.

    Args:
        max_bad_fraction: of the images, that may be left out.
        store: of the images; ``None``: files, and S3 by boto3's own configuration.
        limits: for one image; ``None``: the defaults.
        processes: that prepare; ``None``: as many as cores, where there is work for them.
        needed: splits that must have images; another one may be absent.

    Raises:
        DataError: the data-set table is not usable, or a split that is needed has no image left.
        BadImagesError: more images would be left out than is allowed.
        CacheWriteError: the disk is full.
        StorageUnavailableError, CredentialsRejectedError: the store is not to be had.
    """
    records = manifest.read(path, schema)
    _refuse_empty({record.split for record in records}, needed, path.name)
    base = path.parent.resolve()
    source = Source(
        store=store or open_store(S3Settings(), limits or Limits(), allow_local=True),
        limits=limits or Limits(),
        spec=spec,
    )
    folder = _folder(cache_dir, path, spec)
    _make_room(folder)
    with locked(folder.with_suffix(".lock")):
        uris = [_address(base, record.uri) for record in records]
        job = filling.Job(folder=folder, uris=uris, source=source)
        if prepared.is_whole(folder) and _mended(job):
            log.info("images that were left out can be read now: they are prepared")
            prepared.reopen(folder, len(records), spec.size)
        if not prepared.is_whole(folder):
            _fill(job, records, max_bad_fraction, progress, processes)
    left_out: dict[str, int] = prepared.about(folder)["left_out"]
    _refuse(left_out, len(records), max_bad_fraction, folder)
    splits = _splits(folder, records, path.name, needed)
    _warn(splits, schema, left_out, folder)
    return splits


def _folder(cache_dir: Path, path: Path, spec: PreprocessSpec) -> Path:
    """Of one data-set table, at one place, under one preprocessing."""
    identity = f"{PIPELINE}/{manifest.digest(path)}/{path.parent.resolve()}"
    return cache_dir / spec.digest[:16] / hashlib.sha256(identity.encode()).hexdigest()[:24]


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The folder of prepared images cannot be made ({error.strerror}).",
            next_step="Correct HILUM_CACHE_DIR or the permissions of the folder it names.",
        ) from None


def _address(base: Path, uri: str) -> str:
    return uri if "://" in uri else str(base / uri)


def _fill(
    job: filling.Job,
    records: Sequence[Record],
    max_bad_fraction: float,
    progress: Progress | None,
    processes: int | None,
) -> None:
    size = job.source.spec.size
    target = Filling(job.folder, len(records), size)
    problems: list[Problem] = []
    done = 0

    def found(problem: Problem | None) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(records))
        if problem is not None:
            problems.append(problem)
            if len(problems) > max_bad_fraction * len(records):
                _report(job.folder, problems, records)
                _refuse(_counts(problems), len(records), max_bad_fraction, job.folder)

    try:
        filling.run(job, target, found, processes=processes)
        rows = target.rows()
    finally:
        target.close()
    problems += _duplicates(rows["sha256"], records, {p.record for p in problems})
    _report(job.folder, problems, records)
    _refuse(_counts(problems), len(records), max_bad_fraction, job.folder)
    out = {problem.record for problem in problems}
    order = sorted(range(len(records)), key=lambda n: SPLITS.index(records[n].split))
    kept = [n for n in order if n not in out]
    about = {
        "images": len(kept),
        "left_out": _counts(problems),
        "preprocess": dict(job.source.spec),
    }
    prepared.finish(job.folder, kept, size, about)


def _mended(job: filling.Job) -> bool:
    """Whether an image that was left out of a whole folder can be read now."""
    rows, processes = [], 1
    try:
        with (job.folder / REPORT).open(newline="") as file:
            for row in csv.DictReader(file):
                if row["code"] != _DUPLICATE:
                    rows.append(int(row["line"]) - 2)
                if row["code"] == filling.KILLED:
                    processes = 2  # any number but one, where it would kill us
    except (OSError, KeyError, ValueError):
        return False  # nobody knows which
    if not rows:
        return False
    found: list[Problem | None] = []
    # Beside the whole folder, whose images must not be touched by a trial.
    with TemporaryDirectory(dir=job.folder.parent, prefix=".trial-") as name:
        trial = filling.Job(
            folder=Path(name), uris=[job.uris[row] for row in rows], source=job.source
        )
        target = Filling(trial.folder, len(rows), job.source.spec.size)
        try:
            filling.run(trial, target, found.append, processes=processes)
        except HilumError as error:
            log.warning("images that were left out cannot be tried again (%s)", error.code)
        finally:
            target.close()
    return None in found


def _duplicates(
    digests: npt.NDArray[np.bytes_], records: Sequence[Record], out: set[int]
) -> Iterator[Problem]:
    """Of films whose files are the same, all but one: what is tested stays, then what comes first.

    The same film in training and test would be a leak, whatever patient it is said to be of.
    """
    groups: dict[bytes, list[int]] = {}
    for n, digest in enumerate(digests):
        if n not in out:
            groups.setdefault(bytes(digest), []).append(n)
    for group in groups.values():
        if len(group) > 1:
            keeper = max(group, key=lambda n: (SPLITS.index(records[n].split), -n))
            for n in group:
                if n != keeper:
                    detail = f"The same file as that of line {keeper + 2}."
                    if not _agree(records[n], records[keeper]):
                        detail += " Its labels differ."
                    yield Problem(record=n, code=_DUPLICATE, detail=detail)


def _agree(one: Record, other: Record) -> bool:
    return np.array_equal(one.targets, other.targets, equal_nan=True)


def _counts(problems: Sequence[Problem]) -> dict[str, int]:
    return dict(Counter(problem.code for problem in problems).most_common())


def _report(folder: Path, problems: Sequence[Problem], records: Sequence[Record]) -> None:
    """``left-out.csv``: the data-set table's line, split and address, and what is wrong."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["line", "split", "uri", "code", "detail"])
    for p in sorted(problems, key=lambda problem: problem.record):
        record = records[p.record]
        writer.writerow([p.record + 2, record.split, record.uri, p.code, p.detail])
    with writing(folder / REPORT, CacheWriteError):
        write_atomically(folder / REPORT, out.getvalue().encode())


def _refuse(left_out: dict[str, int], total: int, allowed: float, folder: Path) -> None:
    count = sum(left_out.values())
    if count > allowed * total:
        raise BadImagesError(
            f"{count} of {total} images cannot be used ({_words(left_out)}); at most "
            f"{allowed:.2%} may be left out. They are listed in {folder / REPORT}."
        )


def _refuse_empty(found: set[Split], needed: Sequence[Split], name: str) -> None:
    for split in needed:
        if split not in found:
            raise DataError(f"{name} has no image in split {split!r}.")


def _words(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in left_out.items())


def _splits(
    folder: Path, records: Sequence[Record], name: str, needed: Sequence[Split]
) -> dict[Split, Prepared]:
    images = open_images(folder / "images.npy")
    rows = np.load(folder / "rows.npy")
    used = [records[n] for n in rows["record"]]
    sizes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
    _refuse_empty({record.split for record in used}, needed, name)
    splits: dict[Split, Prepared] = {}
    for split in SPLITS:
        where = [n for n, record in enumerate(used) if record.split == split]
        if not where:
            continue  # not asked for
        chosen = slice(where[0], where[-1] + 1)
        splits[split] = Prepared(
            images=images[chosen],
            targets=np.array([record.targets for record in used[chosen]], dtype=np.float32),
            records=tuple(used[chosen]),
            sizes=sizes[chosen],
        )
    return splits


def _warn(
    splits: dict[Split, Prepared], schema: LabelSchema, left_out: dict[str, int], folder: Path
) -> None:
    if left_out:
        log.warning("images left out: %s; see %s", _words(left_out), folder / REPORT)
    for name, split in splits.items():
        absent = split.absent(schema)
        if absent:
            log.warning("split %s has no positive of: %s", name, ", ".join(absent))
