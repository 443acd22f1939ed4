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
from hilum.sandbox.wire import Message

# So much more memory than before the first image, after an image: something leaks.
_GROWN: Final = 96 * 2**20
# imagecodecs loads each codec when it is first looked at; later there is no memory for that.
_CODECS: Final = ("jpeg2k_decode", "jpeg8_decode", "jpegls_decode", "dicomrle_decode")


def main() -> None:
    """Serve until the parent is gone."""
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
            wire.send(link, _failed(_too_large(max_bytes), retire=True))
            return
        answer = _answer(request, max_bytes)
        del request  # an object of its size is no leak
        if memory.data_bytes() > before + _GROWN:
            answer.fields["retire"] = True
        try:
            wire.send(link, answer)
        except OSError:
            return


def _answer(request: Message, max_bytes: int) -> Message:
    """The answer to one request; it says ``retire`` if another process had better go on."""
    made = guarded(lambda: tasks.TASKS[request.fields["task"]](request))
    # After these nobody knows what state the process is in.
    suspect = isinstance(made, UnexpectedError | OutOfMemoryError)
    if isinstance(made, OutOfMemoryError):
        made = _too_large(max_bytes)
    if isinstance(made, HilumError):
        return _failed(made, retire=suspect)
    return Message(fields={**made.fields, "retire": False}, arrays=made.arrays)


def _too_large(max_bytes: int) -> LimitExceededError:
    return LimitExceededError(f"Decoding needs more than max_decode_bytes, which is {max_bytes}.")


def _failed(error: HilumError, *, retire: bool) -> Message:
    return Message(fields={**wire.failure(error), "retire": retire})


if __name__ == "__main__":
    main()
