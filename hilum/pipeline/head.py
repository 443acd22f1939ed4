"""The header of an object from its first bytes, read in a decode process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from hilum.dicom import FilmHeader
from hilum.dicom.parse import open_head
from hilum.errors import LimitExceededError
from hilum.pipeline import codec
from hilum.sandbox import Decoders
from hilum.sandbox.wire import Message
from hilum.settings import Limits
from hilum.storage import ObjectStore

# Bytes of one request to the store. Most headers fit into the first.
_STEPS: Final = (2**16, 2**20, 2**24)


def read(
    store: ObjectStore, uri: str, decoders: Decoders, *, identity: bool
) -> tuple[FilmHeader, str]:
    """The header of the object at ``uri``, and its ETag. Pixels are not fetched, except for what
    the last request reads beyond the header.

    Raises:
        DicomError: it is no image of DICOM, or its header is not valid.
        LimitExceededError: its header is larger than 16 MiB.
        HilumError: the store or the decode processes fail.
    """
    for length in _STEPS:
        data, etag, size = store.start(uri, length)
        fields = {
            "task": "head",
            "limits": decoders.limits.model_dump(),
            "complete": size <= length,
            "identity": identity,
        }
        found = decoders.ask(Message(fields=fields, arrays=(data,))).fields["header"]
        if found is not None:
            return codec.header_of(found), etag
    raise LimitExceededError(f"The header is larger than {_STEPS[-1]} bytes.")


def answer(request: Message) -> Message:
    """What a decode process does with the request of :func:`read`."""
    (data,) = request.arrays
    assert isinstance(data, bytes | memoryview)
    found = open_head(
        data,
        Limits.model_validate(request.fields["limits"]),
        complete=request.fields["complete"],
        identity=request.fields["identity"],
    )
    return Message(fields={"header": None if found is None else asdict(found)}, arrays=())
