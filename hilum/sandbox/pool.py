"""A pool of decode processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from hilum.errors import DecodersUnavailableError, HilumError
from hilum.sandbox import process
from hilum.sandbox.process import DecodeProcess
from hilum.sandbox.wire import Message
from hilum.settings import Limits

_ORDINARY: Final = 0
_RESERVED: Final = 1


class Decoders:
    """``count`` decode processes, for any number of threads.

    Each process starts when it is first needed, or with :meth:`warm`. A process that failed, or
    asks to be retired, is replaced at once.

    Args:
        limits: ``max_decode_bytes`` and ``max_decode_s`` limit each image.
        tasks: name of the module with the table of tasks, see :class:`hilum.sandbox.wire.Tasks`.
        reserved: number of further processes, which only take urgent requests. They have the
            priority of this process; the others yield to them.
        program: what the children run; for tests.
    """

    def __init__(
        self,
        count: int,
        limits: Limits,
        *,
        tasks: str,
        reserved: int = 0,
        program: Sequence[str] | None = None,
    ) -> None:
        self.limits = limits
        self._tasks = tasks
        self._program = process.PROGRAM if program is None else program
        # Idle processes, ordinary and reserved; `None` stands for one that is not running.
        self._idle: tuple[list[DecodeProcess | None], ...] = ([None] * count, [None] * reserved)
        self._counts = [count, reserved]
        self._changed = threading.Condition()

    def warm(self) -> None:
        """Start all processes that are not running yet, without waiting for them.

        Raises:
            DecodersUnavailableError: a process cannot be started.
        """
        for kind, count in enumerate(self._counts):
            taken = [self._take(kind) for _ in range(count)]
            try:
                for n, child in enumerate(taken):
                    taken[n] = child or self._start(kind)
            finally:
                for child in taken:
                    self._put(kind, child)

    def ask(self, request: Message, *, urgent: bool = False) -> Message:
        """Send ``request`` to a free process, waiting for one, and return its answer.

        Raises:
            DecoderCrashedError: the decode process crashed.
            DecodeTimeoutError: it took too long and was killed.
            OutOfMemoryError: the machine ran out of memory.
            DecodersUnavailableError: no process could be started.
            HilumError: the task itself failed.
        """
        kind, child = self._take_any(_RESERVED, _ORDINARY) if urgent else self._take_any(_ORDINARY)
        try:
            if child is None or not child.alive:  # it ended while idle: not because of an image
                if child is not None:
                    child.close()
                child = self._start(kind)
            answer, goes_on = child.ask(request)
            if not goes_on:
                child.close()
                child = None
                with suppress(DecodersUnavailableError):  # of the next image: this one is answered
                    child = self._start(kind)
        except BaseException:
            if child is not None:
                child.close()
                child = None
            raise
        finally:
            self._put(kind, child)
        if isinstance(answer, HilumError):
            raise answer
        return answer

    def close(self) -> None:
        """Wait until all processes are idle, and end them."""
        for kind, count in enumerate(self._counts):
            for _ in range(count):
                if (child := self._take(kind)) is not None:
                    child.close()
            self._counts[kind] = 0

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, kind: int) -> DecodeProcess:
        child = DecodeProcess(self.limits, tasks=self._tasks, program=self._program)
        if kind == _ORDINARY and self._counts[_RESERVED]:
            child.yield_to_others()
        return child

    def _take(self, kind: int) -> DecodeProcess | None:
        return self._take_any(kind)[1]

    def _take_any(self, *kinds: int) -> tuple[int, DecodeProcess | None]:
        """Wait for an idle process of one of these kinds, the first that there is."""
        with self._changed:
            while True:
                for kind in kinds:
                    if self._idle[kind]:
                        return kind, self._idle[kind].pop()
                self._changed.wait()

    def _put(self, kind: int, child: DecodeProcess | None) -> None:
        with self._changed:
            self._idle[kind].append(child)
            self._changed.notify_all()
