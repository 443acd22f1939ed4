"""``python -m support.poisoned_decoder …``: the real decode process, whose decoder goes wrong on
films of certain heights, as a C library would."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from hilum.dicom import film
from hilum.dicom.decode import Decoded
from hilum.dicom.parse import DicomObject
from hilum.errors import UnexpectedError

_real = film.decode_stored
_libc = ctypes.PyDLL(None)  # calls that hold the interpreter's lock


def _overflow() -> None:
    ctypes.string_at(8)


def _hang() -> None:
    _libc.sleep(600)


def _blow_up() -> None:
    np.ones(4 << 30, dtype=np.uint8)


def _blow_up_in_c() -> None:
    _libc.malloc.restype = ctypes.c_void_p
    for _ in range(4096):
        ctypes.memset(_libc.malloc(16 << 20), 1, 16 << 20)  # a library that never looks


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave_a_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"DOE^JANE" * 4096)
        file.flush()


def _show_secrets() -> None:
    raise UnexpectedError(" ".join(sorted(os.environ)))


def _lie() -> None:
    os.write(_link(), b"\0\0\0\x02{}")


def _link() -> int:
    import sys

    return int(sys.argv[1])


def _look_around() -> None:
    """What can be reached; the parent's files are asked for by name."""
    reached = []
    ways: dict[str, Callable[[], object]] = {
        "hostname": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "environ": lambda: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
        "memory": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
        "root": lambda: list(Path("/").iterdir()),
        "project": lambda: os.open(Path(__file__).parents[2] / "README.md", os.O_RDONLY),
        "own environ": lambda: os.open("/proc/self/environ", os.O_RDONLY),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "TCP": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        "parent": lambda: os.kill(os.getppid(), 0),
        "a module": lambda: importlib.import_module("xmlrpc.client"),
        "a codec": lambda: "é".encode("cp1026"),
    }
    for name, way in ways.items():
        with suppress(PermissionError):
            way()
            reached.append(name)
    raise UnexpectedError(", ".join(reached))


POISON: dict[int, Callable[[], None]] = {
    67: _overflow,
    68: _hang,
    69: _blow_up,
    70: _blow_up_in_c,
    71: _killed,
    72: _leave_a_file,
    73: _show_secrets,
    74: _lie,
    75: _look_around,
}


def _deadly(opened: DicomObject) -> Decoded:
    POISON.get(opened.header.rows, lambda: None)()
    return _real(opened)


film.decode_stored = _deadly

if __name__ == "__main__":
    from hilum.sandbox.child import main

    main()
