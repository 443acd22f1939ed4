"""What decode processes can be asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hilum.imaging import rendering
from hilum.pipeline import examine as preparation
from hilum.sandbox.wire import Message

TASKS: Final[dict[str, Callable[[Message], Message]]] = {
    "prepare": preparation.answer,
    "render": rendering.answer,
}
