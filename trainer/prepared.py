"""Films made into model input once, and kept: the folder behind :func:`trainer.data.load`.

A folder holds one data-set table under one preprocessing. While it is being filled::

    images.part   a .npy file with a row for each film of the data-set table
    rows.part     a ROW for each: what became of it; written after its image

and when it is whole, ``images.npy`` and ``rows.npy`` with the rows that are used, split by split,
and ``whole.json``, written last. A run that was killed goes on with what ``rows.part`` has; a row
whose image does not match its checksum is made again. Images are known by the digest of their file,
so that another table of the same films, or a corrected one, copies them from its neighbours and
decodes nothing.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum import dicom
from hilum.errors import HilumError
from hilum.files import write_atomically
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.settings import Limits
from hilum.storage import ObjectStore
from trainer.errors import CacheWriteError
from trainer.images import open_images

PENDING, STARTED, GOOD, BAD = range(4)

ROW: Final = np.dtype(
    [
        ("state", "u1"),
        ("record", "<i4"),  # of the data-set table, from 0
        ("height", "<i4"),  # of the stored film
        ("width", "<i4"),
        ("sha256", "S64"),  # of the film's file
        ("crc", "<u4"),  # of the prepared image
    ]
)
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where films are read, and what is made of them. Goes to worker processes."""

    store: ObjectStore
    limits: Limits
    spec: PreprocessSpec


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a film is not used."""

    record: int  # of the data-set table, from 0
    code: str
    detail: str


class Filling:
    """The two files of an unfinished folder. Rows may be written from several processes."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        """Open them, or create them at their full length.

        Raises:
            CacheWriteError: there is no room for them.
        """
        header = _header(count, size)
        self._count, self._length, self._start = count, size * size, len(header)
        whole = len(header) + count * self._length
        with _room(whole):
            if not all((folder / name).is_file() for name in ("images.part", "rows.part")):
                (folder / "rows.part").unlink(missing_ok=True)  # without its images, nothing
                _create(folder / "images.part", whole, header)
                _create(folder / "rows.part", count * ROW.itemsize)
            self._pixels = os.open(folder / "images.part", os.O_RDWR | os.O_CLOEXEC)
            self._table = os.open(folder / "rows.part", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Give both files back."""
        os.close(self._pixels)
        os.close(self._table)

    def rows(self) -> npt.NDArray[np.void]:
        """A copy of the table ``[N]`` of ROW."""
        return np.frombuffer(os.pread(self._table, self._count * ROW.itemsize, 0), ROW).copy()

    def image(self, row: int) -> bytes:
        """The image of ``row``."""
        return os.pread(self._pixels, self._length, self._start + row * self._length)

    def write(self, row: int, state: int, image: bytes = b"", **fields: Any) -> None:
        """Put the image, and then what became of it.

        Raises:
            CacheWriteError: the disk is full.
        """
        entry = np.zeros(1, ROW)
        entry["state"], entry["record"] = state, row
        for name, value in fields.items():
            entry[name] = value
        with _room(self._length):
            if image:
                entry["crc"] = zlib.crc32(image)
                _write_all(self._pixels, image, self._start + row * self._length)
            _write_all(self._table, entry.tobytes(), row * ROW.itemsize)

    def whole(self, row: int, entry: np.void) -> bool:
        """Whether the image of ``row`` is the one its entry was written for."""
        return zlib.crc32(self.image(row)) == int(entry["crc"])


def prepare(
    filling: Filling, row: int, uri: str, source: Source, neighbours: Neighbours
) -> Problem | None:
    """Read, decode and prepare one film; what is wrong with it, if it cannot be.

    Raises:
        HilumError: transient; the film may be fine.
        CacheWriteError: the disk is full.
    """
    filling.write(row, STARTED)
    try:
        data = source.store.read(uri)
        digest = hashlib.sha256(data).hexdigest()
        known = neighbours.get(digest)
        if known is not None:
            image, entry = known
            height, width = int(entry["height"]), int(entry["width"])
        else:
            opened = dicom.open_film(data, source.limits)
            image = model_input(opened, source.spec).image.tobytes()
            height, width = opened.header.rows, opened.header.columns
    except HilumError as error:
        if error.transient:
            raise
        filling.write(row, BAD)
        return Problem(record=row, code=error.code, detail=error.detail)
    filling.write(row, GOOD, image, height=height, width=width, sha256=digest)
    return None


def finish(folder: Path, kept: Sequence[int], size: int, about: dict[str, Any]) -> None:
    """Make the folder whole with the rows ``kept``, in order; ``about`` goes into ``whole.json``.

    Raises:
        CacheWriteError: the disk is full; nothing of what was prepared is lost.
    """
    entries = np.fromfile(folder / "rows.part", ROW)
    with _room(len(kept) * size * size):
        if list(kept) == list(range(len(entries))):
            (folder / "images.part").replace(folder / "images.npy")
        else:
            _copy(folder / "images.part", folder / "images.npy", kept, len(entries), size)
        _save(folder / "rows.npy", entries[list(kept)])
        write_atomically(folder / "whole.json", json.dumps(about, indent=2).encode())
    (folder / "rows.part").unlink()
    (folder / "images.part").unlink(missing_ok=True)


def reopen(folder: Path, count: int, size: int) -> None:
    """Make a whole folder one that is being filled, with what it holds; rows of ``count`` that it
    does not are pending.

    Raises:
        CacheWriteError: the disk is full; the folder is still whole.
    """
    for name in ("images.part", "rows.part"):  # of a reopening that was killed
        (folder / name).unlink(missing_ok=True)
    rows = np.load(folder / "rows.npy")
    images = open_images(folder / "images.npy")
    filling = Filling(folder, count, size)
    try:
        for n, row in enumerate(rows):
            known = {name: row[name] for name in ("height", "width", "sha256")}
            filling.write(int(row["record"]), GOOD, images[n].tobytes(), **known)
    finally:
        filling.close()
    (folder / "whole.json").unlink()


def is_whole(folder: Path) -> bool:
    """Whether there is nothing left to do in ``folder``."""
    return (folder / "whole.json").is_file()


def about(folder: Path) -> dict[str, Any]:
    """What :func:`finish` was given."""
    found: dict[str, Any] = json.loads((folder / "whole.json").read_text())
    return found


class Neighbours:
    """Images that other folders of the same preprocessing already hold, by digest of the film."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[bytes, tuple[Path, int, np.void]] = {}
        for whole in sorted(folder.parent.glob("*/whole.json")):
            rows = np.load(whole.with_name("rows.npy"))
            for n, row in enumerate(rows):
                self._where[bytes(row["sha256"])] = (whole.with_name("images.npy"), n, row)

    def get(self, digest: str) -> tuple[bytes, np.void] | None:
        """The image and its row, if one has it."""
        found = self._where.get(digest.encode())
        if found is None:
            return None
        path, number, row = found
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, _ = np.lib.format.read_array_header_1_0(file)
                file.seek(number * shape[-1] ** 2, os.SEEK_CUR)
                image = file.read(shape[-1] ** 2)
        except OSError:  # somebody cleaned up
            return None
        return (image, row) if zlib.crc32(image) == int(row["crc"]) else None


def _header(count: int, size: int) -> bytes:
    out = io.BytesIO()
    shape = (count, 1, size, size)
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def _create(path: Path, length: int, start: bytes = b"") -> None:
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, length)
        except OSError as error:
            if error.errno in _NO_SPACE:
                path.unlink()
                raise
            file.truncate(length)  # a file system that cannot reserve
        file.write(start)


def _copy(source: Path, target: Path, kept: Sequence[int], count: int, size: int) -> None:
    part = target.with_suffix(".npy.part")
    start = len(_header(count, size))
    try:
        with part.open("wb") as out, source.open("rb") as rows:
            out.write(_header(len(kept), size))
            for row in kept:
                rows.seek(start + row * size * size)
                out.write(rows.read(size * size))
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(target)


def _write_all(descriptor: int, data: bytes, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], start + done)


def _save(path: Path, rows: npt.NDArray[np.void]) -> None:
    part = path.with_suffix(".npy.part")
    with part.open("wb") as file:
        np.save(file, rows)
    part.replace(path)


@contextmanager
def _room(length: int) -> Iterator[None]:
    """What a full disk says, in hilum's words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise CacheWriteError(
                f"Prepared images cannot be written ({os.strerror(error.errno or 0)})."
            ) from None
        raise CacheWriteError(
            f"There is no room for prepared images: {length / 2**20:,.1f} MiB more are needed."
        ) from None
