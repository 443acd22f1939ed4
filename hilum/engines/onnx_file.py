"""What has to be known of an ONNX file before a runtime opens it.

Reads the protobuf wire format (protobuf.dev/programming-guides/encoding) as far as one question
needs, so that serving does not depend on the ``onnx`` package. The runtimes read the same bytes
with protobuf's own parser: whatever that one could take for something else than this one does is
refused, as is what ONNX has no use for (groups, field 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hilum.errors import PackageError

# Field numbers of onnx.proto3 on the way from ModelProto to a TensorProto's `data_location`,
# by message. Anything else is skipped over.
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
_LARGEST_TAG: Final = 2**32 - 1  # protobuf keeps 32 bits of a tag and drops the others
_DEEPEST: Final = 100  # protobuf's own limit of messages within messages


def has_external_data(model: bytes) -> bool:
    """Whether any weight of the ONNX ``model`` is to be read from another file.

    Such a file is outside the package's digests, and its path is whatever the graph says.

    Raises:
        PackageError: ``model`` is not a whole protobuf message.
    """
    # Of a message that comes in parts, which protobuf merges, each part is looked at.
    waiting = [("model", memoryview(model), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise PackageError("The graph is not an ONNX file.")
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
    """The version of ONNX's own operators that the ONNX ``model`` is written in; 0: none named.

    Raises:
        PackageError: ``model`` is not a whole protobuf message.
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
    """Field numbers of one message with their values: integers, or bytes not yet parsed.

    Raises:
        PackageError: the message is cut short, or protobuf might read it otherwise.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if tag > _LARGEST_TAG or field == 0:
            raise PackageError("The graph is not an ONNX file.")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise PackageError("The graph is not an ONNX file.")
        if at + size > len(message):
            raise PackageError("The graph's file is cut short.")
        if wire == _BYTES:
            yield field, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The variable-length integer at ``at`` and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise PackageError("The graph's file is cut short.")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise PackageError("The graph is not an ONNX file.")
