"""The prepared images of a data set: a file on disk that never becomes resident as a whole."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class MappedImages(np.memmap):
    """uint8 ``[N, 1, S, S]`` of a ``.npy`` file, mapped read-only.

    An ordinary array to its user. Each access first gives back the pages that earlier ones left
    resident, so a process that reads batch after batch holds a batch, not the data set; the
    system's page cache keeps what memory there is for.
    """

    def __getitem__(self, index: Any) -> Any:
        """A view for slices, a copy for lists of rows, as for every array."""
        self.release()
        found = super().__getitem__(index)
        if isinstance(found, MappedImages) and found.file is None:
            return found.view(np.ndarray)  # a copy: nothing of the file is behind it
        return found

    @property
    def file(self) -> mmap.mmap | None:
        """The mapping behind it, which numpy keeps in a private attribute."""
        found: mmap.mmap | None = getattr(self, "_mmap", None)
        return found

    def release(self) -> None:
        """Let go of the resident pages. Reading them again is harmless, from any thread."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)


def open_images(path: Path) -> npt.NDArray[np.uint8]:
    """Map the ``.npy`` file ``path``."""
    return np.lib.format.open_memmap(path, mode="r").view(MappedImages)
