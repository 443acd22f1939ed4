"""Restrict what a decode process may do. The child does this once, before its first image."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

import hilum
from hilum.sandbox import landlock

_STATM: Final = Path("/proc/self/statm")
# Address space that stacks and arenas reserve and never use.
_UNUSED: Final = 256 * 2**20
# The folders of shared libraries.
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def confine(*, lifeline: int, max_bytes: int, max_shared_bytes: int) -> Callable[[], int]:
    """Bind this process to its parent, and give up every right that decoding does not need.

    - It ends with its parent, even inside C code that holds the interpreter's lock: the kernel
      sends a signal when ``lifeline`` closes, whose other end only the parent has.
    - It cannot write files: temporary files and core dumps would contain patient data.
    - An allocation beyond ``max_bytes`` fails, and so does mapping more than about
      ``max_shared_bytes`` of its parent's.
    - If the machine runs out of memory, the kernel kills this process first.
    - It cannot gain privileges. If the kernel has Landlock, it can open only Python's modules and
      libraries, which are loaded when needed, and has the other limits of
      :func:`hilum.sandbox.landlock.restrict`. Without Landlock it can read all that its parent
      can: files, and in ``/proc`` for example the environment of other processes.

    Returns:
        A function that gives the size of its data segment in bytes, or 0 if it is unknown. It reads
        a file that this process could not open later.
    """
    statm = -1
    with suppress(OSError):  # Linux
        statm = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def data_bytes() -> int:
        return 0 if statm < 0 else int(os.pread(statm, 256, 0).split()[5]) * page

    page = resource.getpagesize()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # the default ends the process
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if os.read(lifeline, 1) == b"":  # the parent ended before the line above
            os._exit(0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    with suppress(OSError):  # Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
        size, _, shared, *_ = (int(field) * page for field in _STATM.read_text().split())
        _lower(resource.RLIMIT_DATA, max_bytes - shared)
        _lower(resource.RLIMIT_AS, size + max_bytes + max_shared_bytes + _UNUSED)
    landlock.restrict(readable=_modules())
    return data_bytes


def _modules() -> list[Path]:
    """The folders of Python's modules and libraries, without folders that hold other files."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # The packages that hilum needs may be in another folder, beside numpy.
    packages = [Path(hilum.__file__).parent, Path(np.__file__).parents[1]]
    return [*map(Path, (*found, *_LIBRARIES)), *packages]


def _lower(limit: int, to: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = to if hard == resource.RLIM_INFINITY else min(to, hard)
    resource.setrlimit(limit, (value, value))
