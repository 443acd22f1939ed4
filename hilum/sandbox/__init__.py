"""Decoding in processes of its own.

The caller says what these processes do (:class:`~hilum.sandbox.wire.Tasks`).

Decoders are C libraries that read untrusted data. Here they run in child processes that have no
credentials, cannot write files, have limited memory and time, and can be killed. A crash, a hang or
a memory explosion fails only the image that caused it, with a typed error. An attacker who takes
over a child has the rights of its user. With Landlock in the kernel, the child can still open only
Python's modules; without it, everything that the user can. Several processes are also needed to
decode on all cores, because some decoders hold the interpreter's lock.

Callers use :class:`~hilum.sandbox.pool.Decoders`.
"""

from hilum.sandbox.pool import Decoders
from hilum.sandbox.wire import Tasks

__all__ = ["Decoders", "Tasks"]
