"""Messages between a process and its decode processes: fields as JSON, arrays as their bytes.

Pickle is not used, because an attacker in a decode process could run code in the parent with it.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum import errors
from hilum.errors import HilumError, UnexpectedError

MAX_HEAD_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_DTYPES: Final = {"uint8", "uint16", "float32"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """One request or answer."""

    fields: dict[str, Any] = field(repr=False)  # JSON
    arrays: tuple[npt.NDArray[Any] | bytes, ...] = field(default=(), repr=False)


class BrokenMessageError(Exception):
    """The other side ended, or sent something that is not a message."""


def send(link: socket.socket, message: Message) -> None:
    """Send one message. The timeout of ``link`` applies to the whole message.

    Raises:
        OSError: the socket failed, or (``TimeoutError``) timed out.
    """
    shapes, parts = [], []
    for array in message.arrays:
        if isinstance(array, bytes):
            shapes.append(["bytes", len(array)])
            parts.append(memoryview(array))
        else:
            whole = np.ascontiguousarray(array)
            shapes.append([whole.dtype.name, *whole.shape])
            parts.append(whole.reshape(-1).view(np.uint8).data)
    head = json.dumps([message.fields, shapes], separators=(",", ":")).encode()
    link.sendall(_LENGTH.pack(len(head)) + head)
    for part in parts:
        link.sendall(part)


def receive(link: socket.socket, *, max_bytes: int, deadline: float | None = None) -> Message:
    """Receive one message.

    Args:
        link: a connected stream socket.
        max_bytes: limit on the size of all arrays together.
        deadline: latest time by :func:`time.monotonic`, or ``None`` to wait for ever.

    Raises:
        TimeoutError: the deadline has passed.
        BrokenMessageError: the other side closed ``link``, or sent something else than a message.
    """
    (length,) = _LENGTH.unpack(_read(link, _LENGTH.size, deadline))
    if length > MAX_HEAD_BYTES:
        raise BrokenMessageError
    try:
        fields, shapes = json.loads(_read(link, length, deadline))
        specs = [(str(name), tuple(int(n) for n in shape)) for name, *shape in shapes]
    except (ValueError, TypeError, RecursionError):
        raise BrokenMessageError from None
    sizes = []
    for name, shape in specs:
        known = name in _DTYPES or (name == "bytes" and len(shape) == 1)
        if not known or min(shape, default=0) < 0:
            raise BrokenMessageError
        sizes.append(math.prod(shape) * (1 if name == "bytes" else np.dtype(name).itemsize))
    if not isinstance(fields, dict) or sum(sizes) > max_bytes:
        raise BrokenMessageError
    arrays: list[npt.NDArray[Any] | bytes] = []
    for (name, shape), size in zip(specs, sizes, strict=True):
        data = _read(link, size, deadline)
        arrays.append(data if name == "bytes" else np.frombuffer(data, name).reshape(shape))
    return Message(fields=fields, arrays=tuple(arrays))


def failure(error: HilumError) -> dict[str, Any]:
    """The fields of an answer that carries ``error``."""
    return {"error": {**error.body()}}


def error_in(fields: dict[str, Any]) -> HilumError | None:
    """The error that an answer carries, as an instance of its class, or ``None``."""
    body = fields.get("error")
    if body is None:
        return None
    kind = _kinds().get(body["code"], UnexpectedError)
    return kind(str(body["detail"]), next_step=str(body["next_step"]))


@lru_cache(maxsize=1)
def _kinds() -> dict[str, type[HilumError]]:
    """Error classes by code. Only those of the core: other packages may use a code again."""
    found = (kind for kind in vars(errors).values() if isinstance(kind, type))
    return {kind.code: kind for kind in found if issubclass(kind, HilumError)}


def _read(link: socket.socket, size: int, deadline: float | None) -> bytes:
    if deadline is None:  # one call, which copies nothing
        link.settimeout(None)
        data = link.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) != size:
            raise BrokenMessageError
        return data
    parts, missing = [], size
    while missing:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        link.settimeout(left)
        try:
            part = link.recv(min(missing, 1 << 20))
        except ConnectionError:
            part = b""
        if not part:
            raise BrokenMessageError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
