"""Messages between a process and its decode processes: fields as JSON, arrays as their bytes, and
large objects by descriptor.

Pickle is not used, because an attacker in a decode process could run code in the parent with it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum import errors
from hilum.errors import HilumError, UnexpectedError
from hilum.sandbox import shared
from hilum.sandbox.shared import SharedBytes

MAX_HEAD_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_DTYPES: Final = {"uint8", "uint16", "float32"}
_BYTES, _SHARED = "bytes", "shared"

Array = npt.NDArray[Any] | bytes | memoryview | SharedBytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """One request or answer."""

    fields: dict[str, Any] = field(repr=False)  # JSON
    # A request has at most one :class:`SharedBytes`, which its receiver gets as a memoryview.
    arrays: tuple[Array, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What decode processes can be asked to do: the ``TASKS`` of a module whose name the caller
    gives. A process imports the module and calls ``warm_up`` before it is confined."""

    answers: Mapping[str, Callable[[Message], Message]]  # by the field ``task`` of a request
    warm_up: Callable[[], None]


class BrokenMessageError(Exception):
    """The other side ended, or sent something that is not a message."""


def send(link: socket.socket, message: Message) -> None:
    """Send one message. The timeout of ``link`` applies to the whole message.

    Raises:
        OSError: the socket failed, or (``TimeoutError``) timed out.
    """
    shapes: list[list[Any]] = []
    parts: list[memoryview] = []
    descriptors: list[int] = []
    for given in message.arrays:
        array = given.sealed() if isinstance(given, SharedBytes) else given
        if isinstance(array, tuple):
            descriptors.append(array[0])
            shapes.append([_SHARED, array[1]])
        elif isinstance(array, bytes | memoryview):
            shapes.append([_BYTES, len(array)])
            parts.append(memoryview(array))
        else:
            whole = np.ascontiguousarray(array)
            shapes.append([whole.dtype.name, *whole.shape])
            parts.append(whole.reshape(-1).view(np.uint8).data)
    head = json.dumps([message.fields, shapes], separators=(",", ":")).encode()
    if descriptors:  # they travel with the first byte
        socket.send_fds(link, [_LENGTH.pack(len(head))], descriptors)
    else:
        link.sendall(_LENGTH.pack(len(head)))
    link.sendall(head)
    for part in parts:
        link.sendall(part)


def receive_request(link: socket.socket, *, max_bytes: int) -> Message:
    """Wait for a message of the parent, which may share an object.

    Raises:
        BrokenMessageError: see :func:`receive`.
        MemoryError: there is too little memory for it.
    """
    link.settimeout(None)
    length, descriptors, _, _ = socket.recv_fds(link, _LENGTH.size, 1)
    try:
        return _receive(link, length, max_bytes, None, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def receive(link: socket.socket, *, max_bytes: int, deadline: float) -> Message:
    """Read one answer of at most ``max_bytes`` in its arrays, without any descriptors.

    Raises:
        TimeoutError: ``deadline``, a time of :func:`time.monotonic`, has passed.
        BrokenMessageError: the other side closed ``link``, or sent something that is no message.
    """
    return _receive(link, _read(link, _LENGTH.size, deadline), max_bytes, deadline, [])


def _receive(
    link: socket.socket,
    head: bytes,
    max_bytes: int,
    deadline: float | None,
    descriptors: list[int],
) -> Message:
    if len(head) != _LENGTH.size:
        raise BrokenMessageError
    (length,) = _LENGTH.unpack(head)
    if length > MAX_HEAD_BYTES:
        raise BrokenMessageError
    try:
        fields, shapes = json.loads(_read(link, length, deadline))
        specs = [(str(name), tuple(int(n) for n in shape)) for name, *shape in shapes]
    except (ValueError, TypeError, RecursionError):
        raise BrokenMessageError from None
    sizes = []
    for name, shape in specs:
        plain = name == _BYTES or (name == _SHARED and len(descriptors) == 1)
        known = name in _DTYPES or (plain and len(shape) == 1)
        if not known or min(shape, default=0) < 0:
            raise BrokenMessageError
        size = 0 if name == _SHARED else 1 if plain else np.dtype(name).itemsize
        sizes.append(math.prod(shape) * size)
    if not isinstance(fields, dict) or sum(sizes) > max_bytes:
        raise BrokenMessageError
    arrays: list[Array] = []
    for (name, shape), size in zip(specs, sizes, strict=True):
        if name == _SHARED:
            arrays.append(shared.mapped(descriptors[0], shape[0]))
            continue
        data = _read(link, size, deadline)
        arrays.append(data if name == _BYTES else np.frombuffer(data, name).reshape(shape))
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
