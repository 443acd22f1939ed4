"""Write packages atomically: the old folder is replaced when the new one is complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.errors import ExportError, WriteError
from hilum.engines import Engine
from hilum.packages.manifest import GRAPH


def check_target(target: Path) -> None:
    """Check that a package may replace what is at ``target``.

    Raises:
        ExportError: it is a folder that is neither empty nor a package.
    """
    if target.exists() and not (target / GRAPH).is_file() and any(target.iterdir()):
        raise ExportError(
            f"{target} is neither empty nor a model package.", next_step="Choose another folder."
        )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Provide an empty folder that replaces ``target`` when the block ends without an error.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            folder = Path(scratch) / "package"
            folder.mkdir()
            yield folder
            old = Path(scratch) / "old"
            if target.exists():
                target.replace(old)
            try:
                folder.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
    except OSError as error:
        free = shutil.disk_usage(_existing(target)).free
        raise WriteError(
            f"{target} cannot be written: {error.strerror or type(error).__name__} "
            f"({free // 2**20} MiB free). Its previous content is unchanged."
        ) from None


def write_golden(path: Path, images: npt.NDArray[np.uint8], engine: Engine) -> None:
    """Write the outputs of ``engine`` for ``images``, uint8 ``[N, 1, S, S]``, to ``path``."""
    output = engine.run(images)
    np.savez_compressed(path, image=images, probability=output.probability, cam=output.cam)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
