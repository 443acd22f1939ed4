"""One folder of the training cache: the prepared images of one data-set table.

The images are made under one preprocessing. While the folder is unfinished it holds::

    images.part   a .npy file with a row for each film of the data-set table
    rows.part     a ROW for each film, written after its image: what became of the film

When it is finished it holds ``images.npy`` and ``rows.npy`` with the rows that are used, split by
split, and ``whole.json``, written last. A run that was killed goes on with what ``rows.part`` has;
an image that does not match its checksum is made again. Images are found by the digest of their
film's file, so another table of the same films, or a corrected table, copies them from the
folders beside it and decodes nothing.
"""

from __future__ import annotations

import errno
import io
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.files import write_atomically
from trainer.arrays import UInt8Array
from trainer.errors import CacheWriteError

GOOD, BAD = 2, 3  # states of a row; any other: not prepared yet

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


class UnfinishedFolder:
    """The two files of an unfinished folder. Several processes may write rows."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        """Open the files in ``folder``, or create them at their full length, for ``count`` films of
        side ``size``.

        Raises:
            CacheWriteError: the disk has no room for the files.
        """
        header = _header(count, size)
        self._folder, self._count, self._size = folder, count, size
        self._start, self._length = len(header), size * size
        whole = len(header) + count * self._length
        images, rows = folder / "images.part", folder / "rows.part"
        with _report_full_disk(whole):
            if not (images.is_file() and rows.is_file()):
                rows.unlink(missing_ok=True)  # without its images it is worth nothing
                _create(images, whole, header)
                _create(rows, count * ROW.itemsize)
            self._images = os.open(images, os.O_RDWR | os.O_CLOEXEC)
            self._rows = os.open(rows, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close both files."""
        os.close(self._images)
        os.close(self._rows)

    def rows(self) -> npt.NDArray[np.void]:
        """A copy of the table, ``[N]`` of ROW."""
        return np.frombuffer(os.pread(self._rows, self._count * ROW.itemsize, 0), ROW).copy()

    def write(self, row: int, state: int, image: bytes = b"", **fields: Any) -> None:
        """Write the image of ``row``, and then its entry in the table.

        Raises:
            CacheWriteError: the disk is full.
        """
        entry = np.zeros(1, ROW)
        entry["state"], entry["record"] = state, row
        for name, value in fields.items():
            entry[name] = value
        with _report_full_disk(self._length):
            if image:
                entry["crc"] = zlib.crc32(image)
                _write_all(self._images, image, self._start + row * self._length)
            _write_all(self._rows, entry.tobytes(), row * ROW.itemsize)

    def is_good(self, row: int, entry: np.void) -> bool:
        """Whether the film of ``row`` is prepared and its image is the one that was written."""
        return entry["state"] == GOOD and zlib.crc32(self._image(row)) == int(entry["crc"])

    def finish(self, kept: Sequence[int], about: dict[str, Any]) -> None:
        """Finish the folder: the rows ``kept``, in their order, and ``about`` in ``whole.json``.

        Raises:
            CacheWriteError: the disk is full. The prepared images stay for the next attempt.
        """
        folder, entries, packed = self._folder, self.rows(), io.BytesIO()
        np.save(packed, entries[list(kept)])
        with _report_full_disk(len(kept) * self._length):
            if list(kept) == list(range(self._count)):
                (folder / "images.part").replace(folder / "images.npy")
            else:
                self._copy(folder / "images.npy", kept)
            write_atomically(folder / "rows.npy", packed.getvalue())
            write_atomically(folder / "whole.json", json.dumps(about, indent=2).encode())
        (folder / "rows.part").unlink()
        (folder / "images.part").unlink(missing_ok=True)

    def _image(self, row: int) -> bytes:
        return os.pread(self._images, self._length, self._start + row * self._length)

    def _copy(self, target: Path, kept: Sequence[int]) -> None:
        part = target.with_suffix(".npy.part")
        try:
            with part.open("wb") as out:
                out.write(_header(len(kept), self._size))
                out.writelines(self._image(row) for row in kept)
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        part.replace(target)


class MappedImages(np.memmap):
    """uint8 ``[N, 1, S, S]`` of a ``.npy`` file, mapped read-only.

    It behaves like an ordinary array. Each access first releases the pages that earlier accesses
    left resident, so a process that reads batch after batch holds one batch, not the data set. The
    system's page cache still keeps what it has memory for.
    """

    def __getitem__(self, index: Any) -> Any:
        """A view for slices and a copy for lists of rows, as for every array."""
        self.release()
        found = super().__getitem__(index)
        if isinstance(found, MappedImages) and found.file is None:
            return found.view(np.ndarray)  # a copy, which does not use the file
        return found

    @property
    def file(self) -> mmap.mmap | None:
        """The mapping, which numpy keeps in a private attribute."""
        found: mmap.mmap | None = getattr(self, "_mmap", None)
        return found

    def release(self) -> None:
        """Release the resident pages. Any thread may read them again."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)


def open_images(path: Path) -> UInt8Array:
    """Map the ``.npy`` file ``path``."""
    return np.lib.format.open_memmap(path, mode="r").view(MappedImages)


def reopen(folder: Path, count: int, size: int) -> None:
    """Make a finished folder an unfinished one of ``count`` rows that keeps its images.

    Raises:
        CacheWriteError: the disk is full. The folder is still finished.
    """
    for name in ("images.part", "rows.part"):  # of an attempt that was killed
        (folder / name).unlink(missing_ok=True)
    images = open_images(folder / "images.npy")
    with closing(UnfinishedFolder(folder, count, size)) as unfinished:
        for image, row in zip(images, np.load(folder / "rows.npy"), strict=True):
            known = {name: row[name] for name in ("height", "width", "sha256")}
            unfinished.write(int(row["record"]), GOOD, image.tobytes(), **known)
    (folder / "whole.json").unlink()


def about(folder: Path) -> dict[str, Any] | None:
    """The content of ``whole.json``; ``None`` for an unfinished folder."""
    try:
        found: dict[str, Any] = json.loads((folder / "whole.json").read_bytes())
    except FileNotFoundError:
        return None
    return found


class KnownImages:
    """Images that the finished folders beside a folder hold, by the digest of their film."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[bytes, tuple[Path, int, np.void]] = {}
        for whole in sorted(folder.parent.glob("*/whole.json")):
            for n, row in enumerate(np.load(whole.with_name("rows.npy"))):
                self._where[bytes(row["sha256"])] = (whole.with_name("images.npy"), n, row)

    def get(self, digest: str) -> tuple[bytes, np.void] | None:
        """The image and its ROW; ``None`` if no folder holds it."""
        found = self._where.get(digest.encode())
        if found is None:
            return None
        path, number, row = found
        try:
            image = open_images(path)[number].tobytes()
        except (OSError, ValueError):  # somebody removed it
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
            file.truncate(length)  # a file system that cannot reserve space
        file.write(start)


def _write_all(descriptor: int, data: bytes, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], start + done)


@contextmanager
def _report_full_disk(length: int) -> Iterator[None]:
    """Raise ``CacheWriteError`` for an ``OSError``; ``length`` bytes were to be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            detail = f"There is no room for prepared images: {length / 2**20:,.1f} MiB more are "
            raise CacheWriteError(detail + "needed.") from None
        reason = os.strerror(error.errno or 0)
        raise CacheWriteError(f"Prepared images cannot be written ({reason}).") from None
