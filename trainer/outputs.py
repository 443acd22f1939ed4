"""Errors of folders and files that the user has to make room for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hilum.errors import HilumError
from trainer.errors import OutputWriteError


@contextmanager
def writing(path: Path, error: type[HilumError] = OutputWriteError) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into an error of hilum.

    Raises:
        OutputWriteError: or ``error``; the disk is full or refuses.
    """
    try:
        yield
    except OSError as found:
        reason = found.strerror or type(found).__name__
        raise error(f"{path} cannot be written: {reason}.") from None
