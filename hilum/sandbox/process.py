"""The parent's side of a decode process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
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
_EXIT_LIMIT_S: Final = 5.0  # a crashed process ends at once; one that sent nonsense does not
_YIELD: Final = 5  # added to the nice value: a third of the processor time of others
_MAX_ANSWER_BYTES: Final = 64 * 2**20  # previews and model inputs have a few MiB
# The variables that Python needs to find hilum, and no credentials. Only Landlock keeps the child
# from reading the parent's environment (:mod:`hilum.sandbox.confinement`).
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# A decode process has one thread. More BLAS threads would only take memory.
_SINGLE: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class DecodeProcess:
    """One decode process. Only one thread may use it at a time. See
    :class:`hilum.sandbox.pool.Decoders`; ``program`` are the arguments of Python."""

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
        """Whether the process is running."""
        return self._process.poll() is None

    def ask(self, request: Message) -> tuple[Message | HilumError, bool]:
        """Send ``request``. Returns the answer or an error, and whether this process can go on.

        Raises:
            DecodersUnavailableError: the process did not start. The image may be fine.
        """
        if not self._ready:
            self._await_start()
        limit_s = self._limits.max_decode_s
        deadline = time.monotonic() + limit_s
        try:
            self._link.settimeout(limit_s)
            wire.send(self._link, request)
        except TimeoutError:
            return self._stop_slow(), False
        except OSError:
            pass  # the child ended, or answered before it read the whole request
        try:
            answer = wire.receive(self._link, max_bytes=_MAX_ANSWER_BYTES, deadline=deadline)
        except TimeoutError:
            return self._stop_slow(), False
        except (wire.BrokenMessageError, OSError):
            return self._explain_crash(), False
        goes_on = not answer.fields.pop("retire", False)
        return wire.error_in(answer.fields) or answer, goes_on

    def yield_to_others(self) -> None:
        """Lower the priority of the process, so that more urgent ones get the processor first."""
        with suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0) + _YIELD)

    def close(self) -> None:
        """Kill the process."""
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

    def _stop_slow(self) -> HilumError:
        self._process.kill()
        return DecodeTimeoutError(
            f"Decoding took longer than max_decode_s ({self._limits.max_decode_s:g} s)."
        )

    def _explain_crash(self) -> HilumError:
        """Return the error for a broken link, from the exit status of the process."""
        try:
            status = self._process.wait(_EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return DecoderCrashedError("The decode process closed its link.")
        if status == -signal.SIGKILL:  # by the kernel, when the machine is out of memory
            return OutOfMemoryError("The decode process was killed from outside.")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return DecoderCrashedError(f"The decode process ended with {how}.")
