"""What a decode process may not do. Called in the child, once, before its first image."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

import hilum
from hilum.sandbox import landlock

_STATM: Final = Path("/proc/self/statm")
# Address space that is reserved and never used: stacks, arenas.
_UNUSED: Final = 256 * 2**20
# Where shared libraries are.
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def confine(*, lifeline: int, max_bytes: int, max_shared_bytes: int) -> Memory:
    """Bind this process to its parent and take away what decoding does not need.

    - It dies with its parent, even inside C code that holds the interpreter's lock: the kernel
      signals the end of ``lifeline``, whose other end only the parent has.
    - It cannot write a file: no temporary ones, no core dump, both would hold patient data.
    - An allocation that would take it beyond ``max_bytes`` fails, and so does mapping more than
      about ``max_shared_bytes`` of its parent's.
    - If the whole machine runs out of memory, it is the first to go.
    - It gains no privileges and, where the kernel has Landlock, opens nothing but Python's modules
      and libraries, which are loaded as they are needed; :func:`hilum.sandbox.landlock.restrict`
      says what else that takes away. Where it has not, files and what ``/proc`` says of other
      processes, their environment for one, are as open to it as to its parent.

    Returns:
        What tells its memory, which it could not look at any more.
    """
    memory = Memory()
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
        _lower(resource.RLIMIT_AS, size + max_bytes + max_shared_bytes + _UNUSED)
    landlock.restrict(readable=_modules())
    return memory


class Memory:
    """This process's own, from a file that stays open."""

    def __init__(self) -> None:
        self._statm = -1
        with suppress(OSError):  # Linux
            self._statm = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def data_bytes(self) -> int:
        """How much there is, bytes; 0 where that cannot be told."""
        if self._statm < 0:
            return 0
        return int(os.pread(self._statm, 256, 0).split()[5]) * resource.getpagesize()


def _modules() -> list[Path]:
    """Where Python loads modules and libraries from; no folder that anything else is kept in."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # The packages hilum needs may lie elsewhere: beside numpy.
    packages = [Path(hilum.__file__).parent, Path(np.__file__).parents[1]]
    return [*map(Path, (*found, *_LIBRARIES)), *packages]


def _lower(limit: int, to: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = to if hard == resource.RLIM_INFINITY else min(to, hard)
    resource.setrlimit(limit, (value, value))
