"""What two graphs must share for the plan of one to take the weights of the other."""

from __future__ import annotations

import hashlib
from typing import Final

from hilum.engines.onnx_file import fields

# Fields of onnx.proto3 that say where a graph comes from, not what it computes: producer and
# version (ModelProto 2–5), documentation, metadata (stack traces of the exporter).
_PROVENANCE: Final[dict[str, frozenset[int]]] = {
    "model": frozenset({2, 3, 4, 5, 6, 14}),
    "graph": frozenset({2, 10, 13, 14, 16}),  # name, doc, value_info, annotations, metadata
    "node": frozenset({6, 9}),
    "tensor": frozenset({12, 16}),
}
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "tensor": {},
}
_DATA_TYPE: Final = 2
_FLOATS: Final = frozenset({1, 10, 11, 16})  # FLOAT, FLOAT16, DOUBLE, BFLOAT16
_CONTENT: Final = frozenset({4, 9, 10, 13, 14})  # float, raw and double data; external data


def architecture_sha256(graph: bytes) -> str:
    """The sha256 of all that ``graph`` computes, but for the values of its floating-point weights.

    Integers stay in: they are shapes, axes and quantised weights, which a refit does not reach.

    Raises:
        PackageError: ``graph`` is not a whole protobuf message.
    """
    digest = hashlib.sha256()
    _add(digest, "model", memoryview(graph))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, kind: str, message: memoryview) -> None:
    found = [*fields(message)]
    left_out = _PROVENANCE.get(kind, frozenset())
    if kind == "tensor" and any(f == _DATA_TYPE and v in _FLOATS for f, v in found):
        left_out |= _CONTENT
    for field, value in found:
        if field in left_out:
            continue
        child = _CHILDREN.get(kind, {}).get(field)
        if child is not None and isinstance(value, memoryview):
            digest.update(f"{kind}.{field}{{".encode())
            _add(digest, child, value)
            digest.update(b"}")
        else:
            content = bytes(value) if isinstance(value, memoryview) else str(value).encode()
            digest.update(f"{kind}.{field}:{len(content)}:".encode() + content)
