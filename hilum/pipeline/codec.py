"""Pack an examination into fields and arrays, and unpack it: for the link to a decode process and
for the entries of the cache, which have the same content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from hilum.dicom import FilmHeader
from hilum.filmcheck import Doubt
from hilum.imaging.transform import Grey, ModelInput, Placement
from hilum.pipeline.stages import Examination
from hilum.sandbox import wire
from hilum.sandbox.wire import error_in, failure

Array: TypeAlias = npt.NDArray[Any]
_HEADER: Final = TypeAdapter(FilmHeader)


def pack(examination: Examination) -> tuple[dict[str, Any], tuple[Array, ...]]:
    """Return the fields, which JSON can hold, and the arrays. An examination that a cache keeps
    (:meth:`Examination.kept`) has at most one array, of two dimensions."""
    grey, found = examination.grey, examination.model_input
    arrays: list[Array] = []
    fields: dict[str, Any] = {
        "sha256": examination.content_sha256.hex(),
        "header": asdict(examination.header),
        "kind": None,  # of the first array
    }
    if grey is not None:
        film = [grey.rows, grey.columns]
        fields |= {"kind": "grey", "padded": grey.padded, "film": film}
        arrays.append(grey.values)
    if found is not None:
        fields |= {"kind": fields["kind"] or "input", "placement": asdict(found.placement)}
        arrays.append(found.image[0])
    if examination.doubts:
        fields["doubts"] = [asdict(doubt) for doubt in examination.doubts]
    if examination.failure is not None:
        fields["failure"] = failure(examination.failure)
    if examination.preview is not None:
        fields["preview"] = True
        arrays.append(examination.preview)
    return fields, tuple(arrays)


def unpack(fields: dict[str, Any], arrays: Sequence[wire.Array]) -> Examination:
    """Return the examination that :func:`pack` packed.

    Raises:
        ValueError, KeyError, TypeError: :func:`pack` never returned these.
    """
    rest = iter(arrays)
    grey: Grey | None = None
    found: ModelInput | None = None
    if fields["kind"] == "grey":
        rows, columns = fields["film"]
        values = np.ascontiguousarray(_next(rest), dtype=np.uint16)
        grey = Grey(values=values, padded=fields["padded"], rows=rows, columns=columns)
    if "placement" in fields:
        image = np.ascontiguousarray(_next(rest), dtype=np.uint8)
        found = ModelInput(image=image[np.newaxis], placement=Placement(**fields["placement"]))
    return Examination(
        content_sha256=bytes.fromhex(fields["sha256"]),
        header=header_of(fields["header"]),
        model_input=found,
        grey=grey,
        doubts=tuple(Doubt(**doubt) for doubt in fields.get("doubts", ())),
        preview=np.asarray(_next(rest), dtype=np.float32) if fields.get("preview") else None,
        failure=error_in(fields.get("failure", {})),
    )


def header_of(fields: dict[str, Any]) -> FilmHeader:
    """The header of which :func:`dataclasses.asdict` gave these."""
    header = _HEADER.validate_python(fields)
    return replace(header, flags=tuple(header.flags))


def _next(arrays: Iterator[wire.Array]) -> wire.Array:
    for array in arrays:
        return array
    raise ValueError("an array is missing")
