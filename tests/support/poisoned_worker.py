"""``python -m support.poisoned_worker worker``: the real worker. A film of 66 rows kills the worker
process itself, one of 67 rows the decode process it is in, as crashes in C libraries would. One of
65 rows is not read before the file ``$HELD_UNTIL`` exists or the process is told to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hilum.sandbox import process
from hilum.storage import ObjectStore

_ROWS = b"\x28\x00\x10\x00US\x02\x00"
_real = ObjectStore.read_into


def _deadly(
    self: ObjectStore, write: Callable[[bytes], object], uri: str, **limits: Any
) -> str | None:
    pieces: list[bytes] = []
    etag = _real(self, pieces.append, uri, **limits)
    data = b"".join(pieces)
    if _ROWS + b"\x42\x00" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    while _ROWS + b"\x41\x00" in data and not _released():
        time.sleep(0.05)
    write(data)
    return etag


def _released() -> bool:
    # Not imported at the start: this module is the first that a pool process imports.
    from worker import tasks

    assert tasks._process is not None
    return tasks._process.stopping or Path(os.environ["HELD_UNTIL"]).exists()


# At import: pool processes are spawned and import the main module anew.
ObjectStore.read_into = _deadly  # type: ignore[method-assign]
process.PROGRAM = ("-m", "support.poisoned_decoder")  # type: ignore[misc]

if __name__ == "__main__":
    from hilum.cli import main

    main()
