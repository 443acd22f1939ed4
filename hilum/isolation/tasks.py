"""What decode processes can be asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hilum import preparation, rendering
from hilum.isolation.wire import Message

TASKS: Final[dict[str, Callable[[Message], Message]]] = {
    "prepare": preparation.answer,
    "render": rendering.answer,
}
