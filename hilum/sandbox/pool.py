"""A pool of decode processes."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from hilum.errors import DecodersUnavailableError, HilumError
from hilum.sandbox import process
from hilum.sandbox.process import DecodeProcess
from hilum.sandbox.wire import Message
from hilum.settings import Limits


class Decoders:
    """``count`` decode processes, for any number of threads.

    Each process starts when it is first needed, or with :meth:`warm`. A process that failed, or
    asks to be retired, is replaced at once.

    Args:
        limits: ``max_decode_bytes`` and ``max_decode_s`` limit each image.
        tasks: name of the module with the table of tasks, see :class:`hilum.sandbox.wire.Tasks`.
        program: what the children run; for tests.
    """

    def __init__(
        self, count: int, limits: Limits, *, tasks: str, program: Sequence[str] | None = None
    ) -> None:
        self.limits = limits
        program = process.PROGRAM if program is None else program
        self._start = partial(DecodeProcess, limits, tasks=tasks, program=program)
        self._idle: queue.LifoQueue[DecodeProcess | None] = queue.LifoQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def warm(self) -> None:
        """Start all processes that are not running yet, without waiting for them.

        Raises:
            DecodersUnavailableError: a process cannot be started.
        """
        taken = [self._idle.get() for _ in range(self._count)]
        try:
            for n, child in enumerate(taken):
                taken[n] = child or self._start()
        finally:
            for child in taken:
                self._idle.put(child)

    def ask(self, request: Message) -> Message:
        """Send ``request`` to a free process, waiting for one, and return its answer.

        Raises:
            DecoderCrashedError: the decode process crashed.
            DecodeTimeoutError: it took too long and was killed.
            OutOfMemoryError: the machine ran out of memory.
            DecodersUnavailableError: no process could be started.
            HilumError: the task itself failed.
        """
        child = self._idle.get()
        try:
            if child is None or not child.alive:  # it ended while idle: not because of an image
                if child is not None:
                    child.close()
                child = self._start()
            answer, goes_on = child.ask(request)
            if not goes_on:
                child.close()
                child = None
                with suppress(DecodersUnavailableError):  # of the next image: this one is answered
                    child = self._start()
        except BaseException:
            if child is not None:
                child.close()
                child = None
            raise
        finally:
            self._idle.put(child)
        if isinstance(answer, HilumError):
            raise answer
        return answer

    def close(self) -> None:
        """Wait until all processes are idle, and end them."""
        for _ in range(self._count):
            if (child := self._idle.get()) is not None:
                child.close()
        self._count = 0

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
