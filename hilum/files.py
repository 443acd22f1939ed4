"""Files that other processes read: written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``: a reader sees the old content or all of the new one.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    # Not tempfile: its files are 0600 whatever the umask says.
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes and threads of this machine.

    The lock goes with its holder, so a killed process leaves none behind.

    Args:
        path: of the lock file, made if it is not there.
        on_wait: called if somebody else holds it, before the wait.
    """
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
