"""What the processes of a sandbox can be asked to do; whoever opens the sandbox says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hilum.sandbox.wire import Message


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The ``TASKS`` of a module that a sandbox is told of by name.

    A process imports the module and calls ``warm_up`` before it is confined.
    """

    answers: Mapping[str, Callable[[Message], Message]]  # by the field ``task`` of a request
    warm_up: Callable[[], None]
