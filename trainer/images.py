"""The prepared images of a data set, mapped from disk and never resident as a whole."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


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


def open_images(path: Path) -> npt.NDArray[np.uint8]:
    """Map the ``.npy`` file ``path``."""
    return np.lib.format.open_memmap(path, mode="r").view(MappedImages)
