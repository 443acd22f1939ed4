"""A decode process: ``child LINK LIFELINE MAX_BYTES MAX_SHARED_BYTES TASKS``.

Only :mod:`hilum.sandbox.process` starts it. It answers one request after the other, by the table of
the module TASKS, until its parent closes the link.
"""

from __future__ import annotations

import importlib
import socket
import sys
from typing import Final

from hilum.errors import HilumError, LimitExceededError, OutOfMemoryError, UnexpectedError
from hilum.errors.guarding import capture_failure
from hilum.sandbox import confinement, wire
from hilum.sandbox.wire import Message, Tasks

# If memory has grown by this much since before the first image, a decoder leaks.
_GROWN: Final = 96 * 2**20


def main() -> None:
    """Answer requests until the parent closes the link."""
    link = socket.socket(fileno=int(sys.argv[1]))
    max_bytes, max_shared_bytes = int(sys.argv[3]), int(sys.argv[4])
    tasks: Tasks = importlib.import_module(sys.argv[5]).TASKS
    tasks.warm_up()
    data_bytes = confinement.confine(
        lifeline=int(sys.argv[2]), max_bytes=max_bytes, max_shared_bytes=max_shared_bytes
    )
    before = data_bytes()
    wire.send(link, Message(fields={"ready": True}))
    while True:
        try:
            request = wire.receive_request(link, max_bytes=max_bytes)
        except wire.BrokenMessageError:
            return
        except MemoryError:  # the rest of the request is still in the link
            wire.send(link, _failure(_too_large(max_bytes), retire=True))
            return
        answer = _answer(tasks, request, max_bytes)
        del request  # an object of its size is no leak
        if data_bytes() > before + _GROWN:
            answer.fields["retire"] = True
        try:
            wire.send(link, answer)
        except OSError:
            return


def _answer(tasks: Tasks, request: Message, max_bytes: int) -> Message:
    """Answer one request. The field ``retire`` tells the parent to replace this process."""
    made = capture_failure(lambda: tasks.answers[request.fields["task"]](request))
    # After these errors the state of the process is unknown.
    suspect = isinstance(made, UnexpectedError | OutOfMemoryError)
    if isinstance(made, OutOfMemoryError):
        made = _too_large(max_bytes)
    if isinstance(made, HilumError):
        return _failure(made, retire=suspect)
    return Message(fields={**made.fields, "retire": False}, arrays=made.arrays)


def _too_large(max_bytes: int) -> LimitExceededError:
    return LimitExceededError(f"Decoding needs more than max_decode_bytes ({max_bytes} bytes).")


def _failure(error: HilumError, *, retire: bool) -> Message:
    return Message(fields={**wire.failure(error), "retire": retire})


if __name__ == "__main__":
    main()
