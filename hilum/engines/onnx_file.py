"""Checks of an ONNX file before a runtime opens it.

Reads just enough of the protobuf wire format (protobuf.dev/programming-guides/encoding), so that
serving does not depend on the ``onnx`` package. The runtimes read the same bytes with protobuf's
own parser, so bytes that the two parsers might read differently are refused, and so is what ONNX
never uses (groups, field 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hilum.errors import PackageError

# For each message on the way from ModelProto to TensorProto.data_location: the numbers of the
# fields to follow (onnx.proto3). All other fields are skipped.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_LOCATION: Final = 14
_EXTERNAL_DATA: Final = 13
_OPSET_IMPORT: Final = 8
_OWN_DOMAINS: Final = (b"", b"ai.onnx")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_TAG: Final = 2**32 - 1  # protobuf keeps 32 bits of a tag and drops the rest
_DEEPEST: Final = 100  # protobuf's own limit on nested messages


def has_external_data(model: bytes) -> bool:
    """Whether the ONNX ``model`` reads a weight from another file.

    No digest of the package covers such a file, and the graph alone decides its path.

    Raises:
        PackageError: ``model`` is not a complete protobuf message.
    """
    # protobuf merges a message that comes in several parts. Every part is checked.
    waiting = [("model", memoryview(model), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise PackageError("The graph is not a valid ONNX file.")
        for field, value in fields(message):
            if isinstance(value, memoryview):
                if kind == "tensor" and field == _EXTERNAL_DATA:
                    return True
                if field in _CHILDREN[kind]:
                    waiting.append((_CHILDREN[kind][field], value, depth + 1))
            elif kind == "tensor" and field == _DATA_LOCATION and value != 0:
                return True
    return False


def opset(model: bytes) -> int:
    """The version of the standard ONNX operators that ``model`` uses, or 0 if it names none.

    Raises:
        PackageError: ``model`` is not a complete protobuf message.
    """
    for field, value in fields(memoryview(model)):
        if field == _OPSET_IMPORT and isinstance(value, memoryview):
            entry = {number: content for number, content in fields(value)}  # noqa: C416
            domain, version = entry.get(1, b""), entry.get(2, 0)
            if isinstance(version, int) and (
                not isinstance(domain, int) and bytes(domain) in _OWN_DOMAINS
            ):
                return version
    return 0


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of one message: number and value, an integer or bytes not yet parsed.

    Raises:
        PackageError: the message is incomplete, or protobuf might read it differently.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if tag > _LARGEST_TAG or field == 0:
            raise PackageError("The graph is not a valid ONNX file.")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise PackageError("The graph is not a valid ONNX file.")
        if at + size > len(message):
            raise PackageError("The file of the graph is incomplete.")
        if wire == _BYTES:
            yield field, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the variable-length integer at ``at`` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise PackageError("The file of the graph is incomplete.")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise PackageError("The graph is not a valid ONNX file.")
