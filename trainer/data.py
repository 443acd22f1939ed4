"""Records become model input through the serving code, once; epochs read the prepared array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hilum import dicom
from hilum.errors import DataError, HilumError
from hilum.labels import LabelSchema
from hilum.model_input import model_input
from hilum.preprocess import ModelInput, Placement, PreprocessSpec
from hilum.settings import Limits
from trainer import manifest
from trainer.manifest import Record, Split

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A split of a data set, ready for the model."""

    images: npt.NDArray[np.uint8]  # [N, 1, S, S], memory-mapped
    targets: npt.NDArray[np.float32]  # [N, K], NaN = not known
    records: tuple[Record, ...]
    sizes: npt.NDArray[np.int32]  # [N, 2]: height and width of the stored film

    def __len__(self) -> int:
        return len(self.records)

    def placement(self, index: int) -> Placement:
        """Where film ``index`` lies in its input."""
        height, width = (int(n) for n in self.sizes[index])
        return Placement.letterbox(height=height, width=width, size=self.images.shape[-1])


def load(
    path: Path,
    schema: LabelSchema,
    spec: PreprocessSpec,
    *,
    cache_dir: Path,
    progress: Progress | None = None,
) -> dict[Split, Prepared]:
    """The splits of the manifest at ``path``.

    The first time every image is prepared and kept in ``cache_dir``, under the digests of manifest
    and preprocessing; later the array is mapped and nothing is decoded.

    Raises:
        DataError: the manifest is not usable, or an image is missing or unreadable.
    """
    records = manifest.read(path, schema)
    key = hashlib.sha256(f"{manifest.digest(path)}/{spec.digest}".encode()).hexdigest()[:24]
    folder = cache_dir / key
    if not (folder / "sizes.npy").is_file():  # written last
        _fill(folder, path.parent, records, spec, progress)
    images = np.load(folder / "images.npy", mmap_mode="r")
    sizes = np.load(folder / "sizes.npy")
    splits: dict[Split, Prepared] = {}
    for split in ("train", "val", "test"):
        rows = [n for n, record in enumerate(records) if record.split == split]
        if not rows:
            raise DataError(f"{path.name} has no image in split {split!r}.")
        # Manifests are written split by split, so that this is a view; otherwise it is a copy.
        contiguous = rows[-1] - rows[0] + 1 == len(rows)
        chosen = slice(rows[0], rows[-1] + 1) if contiguous else rows
        splits[split] = Prepared(
            images=images[chosen],
            targets=np.array([records[n].targets for n in rows], dtype=np.float32),
            records=tuple(records[n] for n in rows),
            sizes=sizes[chosen],
        )
    return splits


def read(path: Path, spec: PreprocessSpec) -> tuple[ModelInput, tuple[int, int]]:
    """A DICOM object, PNG or JPEG as model input, and the height and width of its film.

    All go through the decoding that serves. Pixels of PNG and JPEG: larger = brighter.

    Raises:
        DataError: the file is missing, or is no readable greyscale image.
    """
    try:
        opened = dicom.open_film(path.read_bytes(), Limits())
        return model_input(opened, spec), (opened.header.rows, opened.header.columns)
    except FileNotFoundError:
        raise DataError(f"Image {path.name} is missing.") from None
    except OSError as error:
        raise DataError(f"Image {path.name} is unreadable ({type(error).__name__}).") from None
    except HilumError as error:
        raise DataError(f"Image {path.name}: {error.detail}") from None


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.intp]]:
    """Every index below ``count`` once, in random order; a last batch below 2 is left out."""
    order = rng.permutation(count)
    for start in range(0, count, size):
        batch = order[start : start + size]
        if len(batch) > 1:  # batch normalisation needs two
            yield batch


def _fill(
    folder: Path,
    base: Path,
    records: Sequence[Record],
    spec: PreprocessSpec,
    progress: Progress | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "images.part.npy"
    shape = (len(records), 1, spec.size, spec.size)
    images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    sizes = np.empty((len(records), 2), dtype=np.int32)

    def one(index: int) -> None:
        read_in, sizes[index] = read(base / records[index].uri, spec)
        images[index] = read_in.image

    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(one, range(len(records))), 1):
            if progress is not None:
                progress(done, len(records))
    images.flush()
    part.replace(folder / "images.npy")
    np.save(folder / "sizes.part.npy", sizes)
    (folder / "sizes.part.npy").replace(folder / "sizes.npy")
