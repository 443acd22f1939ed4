"""Decode processes, kept ready."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from types import TracebackType

from hilum.errors import HilumError
from hilum.sandbox import process
from hilum.sandbox.process import DecodeProcess
from hilum.sandbox.wire import Message
from hilum.settings import Limits


class Decoders:
    """``count`` decode processes, for any number of threads.

    Each is started when it is first needed, or by :meth:`warm`. One that failed, or that had better
    not go on, is replaced at once.

    Args:
        count: images decoded at a time.
        limits: ``max_decode_bytes`` and ``max_decode_s`` bound each image.
        tasks: name of the module with the table of what they can be asked, see
            :class:`hilum.sandbox.tasks.Tasks`.
        program: what the children run; for tests.
    """

    def __init__(
        self, count: int, limits: Limits, *, tasks: str, program: Sequence[str] | None = None
    ) -> None:
        self.limits = limits
        self._tasks = tasks
        self._program = process.PROGRAM if program is None else program
        self._idle: queue.LifoQueue[DecodeProcess | None] = queue.LifoQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def warm(self) -> None:
        """Start all processes that are not there yet, without waiting for them.

        Raises:
            DecodersUnavailableError: the machine does not let one start.
        """
        taken = [self._idle.get() for _ in range(self._count)]
        for child in taken:
            self._idle.put(child or self._start())

    def ask(self, request: Message) -> Message:
        """Have one process answer ``request``; waits for one to be free.

        Raises:
            DecoderCrashedError: the decoder crashed over this image.
            DecodeTimeoutError: it took too long, and was killed.
            OutOfMemoryError: the machine has no memory left.
            DecodersUnavailableError: no process could be started.
            HilumError: whatever the task itself raises.
        """
        child = self._idle.get()
        try:
            if child is None or not child.alive:  # it died idle: no image is to blame
                child = self._replaced(child)
            answer, goes_on = child.ask(request)
            if not goes_on:
                child = self._replaced(child)
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
        """End all processes, once they are idle."""
        for _ in range(self._count):
            if (child := self._idle.get()) is not None:
                child.close()
        self._count = 0

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> DecodeProcess:
        return DecodeProcess(self.limits, tasks=self._tasks, program=self._program)

    def _replaced(self, child: DecodeProcess | None) -> DecodeProcess:
        if child is not None:
            child.close()
        return self._start()
