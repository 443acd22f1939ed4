"""Decoding in processes of its own.

What these do is their caller's to say (:class:`~hilum.sandbox.tasks.Tasks`).

Decoders are C libraries fed with what strangers send. Here they run in children that are given no
credentials, cannot write a file, have a bound on memory and on time, and can be killed: a crash, a
hang or a blow-up costs the image it happened to, with a typed error, and nothing else. A child that
was taken over runs as its parent's user; where the kernel has Landlock, it can open nothing but
Python's modules all the same, and where it has not, whatever that user can. It is also how all
cores decode, since some decoders hold the interpreter's lock.

:class:`~hilum.sandbox.pool.Decoders` is the whole of it for callers.
"""

from hilum.sandbox.pool import Decoders
from hilum.sandbox.tasks import Tasks

__all__ = ["Decoders", "Tasks"]
