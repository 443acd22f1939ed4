"""Landlock (Linux 5.13): a process gives up for good what it may open, connect to and signal.

Uses system calls, because neither Python nor libc has functions for Landlock. See the kernel's
``Documentation/userspace-api/landlock.rst`` and ``include/uapi/linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The same numbers on all architectures, but not on all systems.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_MACHINES: Final = {"x86_64", "aarch64"}
_PR_SET_NO_NEW_PRIVS: Final = 38
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# The number of file rights that each version of the interface has. Later versions have more.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_LATER_FILE_RIGHTS: Final = 16
_TCP: Final = 0b11  # bind and connect, from version 4
_OUTSIDE: Final = 0b11  # abstract sockets and signals to processes outside, from version 6


def version() -> int:
    """Version of the kernel's Landlock interface, or 0 if it has none."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return 0
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def restrict(*, readable: Iterable[Path]) -> None:
    """Restrict this thread, and all threads and processes that it starts, for good.

    They can then only read what is below ``readable``, run no program, and inspect no process
    outside. If the kernel supports it, they also cannot open TCP connections (Linux 6.7), or reach
    processes outside by an abstract socket or a signal (Linux 6.12). Open files stay open. Without
    Landlock, the thread still cannot gain privileges (by set-user-id programs).
    """
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return
    if not (known := version()):
        return
    files = (1 << _FILE_RIGHTS.get(known, _LATER_FILE_RIGHTS)) - 1
    handled = [files, *([_TCP] if known >= 4 else []), *([_OUTSIDE] if known >= 6 else [])]
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return
    try:
        if all(_allow(rules, path) for path in readable):
            _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path) -> bool:
    """Add ``path`` to the rules. Returns ``False`` if the kernel refuses."""
    try:
        below = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # the path does not exist
        return True
    try:
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        return _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, below), 0) == 0
    finally:
        os.close(below)


def _call(number: int, *arguments: bytes | int | None) -> int:
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    function = ctypes.CDLL(None).syscall
    function.restype = ctypes.c_long
    return int(function(ctypes.c_long(number), *wide))
