"""Folders and files that are the user's to make room for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hilum.errors import HilumError
from trainer.errors import CheckpointWriteError, OutputWriteError


@contextmanager
def writing(path: Path, error: type[HilumError] = OutputWriteError) -> Iterator[None]:
    """What the system says of ``path``, in hilum's words.

    Raises:
        OutputWriteError: or ``error``; the disk is full or refuses.
    """
    try:
        yield
    except OSError as found:
        reason = found.strerror or type(found).__name__
        raise error(f"{path} cannot be written: {reason}.") from None


def make_run_folder(out: Path) -> None:
    """The folder of a run, before anything is computed for it.

    Raises:
        CheckpointWriteError: it cannot be made.
    """
    with writing(out, CheckpointWriteError):
        out.mkdir(parents=True, exist_ok=True)
