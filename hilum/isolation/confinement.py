"""What a decode process may not do. Called in the child, once, before its first image."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
# Address space that is reserved and never used: stacks, arenas.
_UNUSED: Final = 256 * 2**20


def confine(*, lifeline: int, max_bytes: int) -> None:
    """Bind this process to its parent and take away what decoding does not need.

    - It dies with its parent, even inside C code that holds the interpreter's lock: the kernel
      signals the end of ``lifeline``, whose other end only the parent has.
    - It cannot write a file: no temporary ones, no core dump, both would hold patient data.
    - An allocation that would take it beyond ``max_bytes`` fails.
    - If the whole machine runs out of memory, it is the first to go.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if os.read(lifeline, 1) == b"":  # it ended before the line above
            os._exit(0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    with suppress(OSError):  # Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
        pages = [int(field) * resource.getpagesize() for field in _STATM.read_text().split()]
        size, shared = pages[0], pages[2]
        _lower(resource.RLIMIT_DATA, max_bytes - shared)
        _lower(resource.RLIMIT_AS, size + max_bytes + _UNUSED)


def data_bytes() -> int:
    """Memory of its own that this process has, bytes; 0 where that cannot be told."""
    try:
        return int(_STATM.read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def _lower(limit: int, to: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = to if hard == resource.RLIM_INFINITY else min(to, hard)
    resource.setrlimit(limit, (value, value))
