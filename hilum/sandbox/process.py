"""A decode process as its parent sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from hilum.errors import (
    DecoderCrashedError,
    DecodersUnavailableError,
    DecodeTimeoutError,
    HilumError,
    OutOfMemoryError,
)
from hilum.sandbox import wire
from hilum.sandbox.wire import Message
from hilum.settings import Limits

PROGRAM: Final = ("-m", "hilum.sandbox.child")

_START_LIMIT_S: Final = 60.0
_MAX_ANSWER_BYTES: Final = 64 * 2**20  # previews and inputs are a few
# What Python needs to find hilum, and no credentials. Those of its parent are out of reach only
# where the kernel has Landlock (:mod:`hilum.sandbox.confinement`).
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# One decode process is one thread; a pool of BLAS threads is memory that it would not use.
_SINGLE: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class DecodeProcess:
    """One child; from one thread at a time.

    Args:
        limits: of an image.
        tasks: name of the module with the table of what it can be asked, see
            :class:`hilum.sandbox.tasks.Tasks`.
        program: what to run, arguments of Python.
    """

    def __init__(self, limits: Limits, *, tasks: str, program: Sequence[str] = PROGRAM) -> None:
        self._limits = limits
        self._ready = False
        self._link, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        descriptors = (theirs.fileno(), lifeline)
        sizes = (limits.max_decode_bytes, limits.max_object_bytes)
        arguments = [*map(str, (*descriptors, *sizes)), tasks]
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- ourselves
                [sys.executable, *program, *arguments],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders print what they find
                env={**kept, **_SINGLE},
            )
        except OSError as error:
            self._link.close()
            os.close(self._lifeline)
            raise DecodersUnavailableError(
                f"A decode process cannot be started ({error.strerror})."
            ) from None
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ask(self, request: Message) -> tuple[Message | HilumError, bool]:
        """The answer, or what became of the image; and whether this process can go on.

        Raises:
            DecodersUnavailableError: it did not start. Nothing is said about the image.
        """
        if not self._ready:
            self._await_start()
        limit_s = self._limits.max_decode_s
        deadline = time.monotonic() + limit_s
        try:
            self._link.settimeout(limit_s)
            wire.send(self._link, request)
        except TimeoutError:
            return self._too_slow(), False
        except OSError:
            pass  # it ended, or had said all it had to say before it read everything
        try:
            answer = wire.receive(self._link, max_bytes=_MAX_ANSWER_BYTES, deadline=deadline)
        except TimeoutError:
            return self._too_slow(), False
        except (wire.BrokenMessageError, OSError):
            return self._crashed(deadline), False
        goes_on = not answer.fields.pop("retire", False)
        return wire.raised(answer.fields) or answer, goes_on

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._link.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        try:
            wire.receive(self._link, max_bytes=0, deadline=deadline)
        except (TimeoutError, wire.BrokenMessageError, OSError):
            self._process.kill()
            status = self._process.wait()
            raise DecodersUnavailableError(
                f"A decode process did not start (status {status})."
            ) from None
        self._ready = True

    def _too_slow(self) -> HilumError:
        self._process.kill()
        return DecodeTimeoutError(
            f"Decoding took longer than max_decode_s, which is {self._limits.max_decode_s:g}."
        )

    def _crashed(self, deadline: float) -> HilumError:
        """The link broke: how the process ended says why."""
        try:
            status = self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return DecoderCrashedError("The decoder's process closed its link.")
        if status == -signal.SIGKILL:  # nobody here did; the kernel does, out of memory
            return OutOfMemoryError("The decoder's process was killed from outside.")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return DecoderCrashedError(f"The decoder's process ended with {how}.")
