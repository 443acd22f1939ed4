"""``python -m hilum.sandbox.child LINK LIFELINE MAX_BYTES``: a decode process.

Not for people. It answers one request after the other until its parent closes the link.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import imagecodecs

from hilum.errors import HilumError, LimitExceededError, OutOfMemoryError, UnexpectedError
from hilum.errors.guarding import guarded
from hilum.sandbox import confinement, tasks, wire
from hilum.sandbox.confinement import Memory
from hilum.sandbox.wire import Message

# If memory has grown by this much since before the first image, a decoder leaks.
_GROWN: Final = 96 * 2**20
# imagecodecs loads each codec when it is first looked at; later there is no memory for that.
_CODECS: Final = ("jpeg2k_decode", "jpeg8_decode", "jpegls_decode", "dicomrle_decode")


def main() -> None:
    """Answer requests until the parent closes the link."""
    link = socket.socket(fileno=int(sys.argv[1]))
    max_bytes = int(sys.argv[3])
    for name in _CODECS:
        getattr(imagecodecs, name)
    memory = confinement.confine(lifeline=int(sys.argv[2]), max_bytes=max_bytes)
    before = memory.data_bytes()
    wire.send(link, Message(fields={"ready": True}))
    while True:
        try:
            request = wire.receive(link, max_bytes=max_bytes)
        except wire.BrokenMessageError:
            return
        except MemoryError:  # the rest of the request is still in the link
            wire.send(link, _failure(_too_large(max_bytes), retire=True))
            return
        answer = _answer(request, max_bytes, memory, before)
        del request
        try:
            wire.send(link, answer)
        except OSError:
            return


def _answer(request: Message, max_bytes: int, memory: Memory, before: int) -> Message:
    """Answer one request. The field ``retire`` tells the parent to replace this process."""
    made = guarded(lambda: tasks.TASKS[request.fields["task"]](request))
    # After these errors the state of the process is unknown.
    suspect = isinstance(made, UnexpectedError | OutOfMemoryError)
    if isinstance(made, OutOfMemoryError):
        made = _too_large(max_bytes)
    retire = suspect or memory.data_bytes() > before + _GROWN
    if isinstance(made, HilumError):
        return _failure(made, retire=retire)
    return Message(fields={**made.fields, "retire": retire}, arrays=made.arrays)


def _too_large(max_bytes: int) -> LimitExceededError:
    return LimitExceededError(f"Decoding needs more than max_decode_bytes ({max_bytes} bytes).")


def _failure(error: HilumError, *, retire: bool) -> Message:
    return Message(fields={**wire.failure(error), "retire": retire})


if __name__ == "__main__":
    main()
