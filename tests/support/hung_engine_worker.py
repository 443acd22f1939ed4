"""``python -m support.hung_engine_worker worker``: the real worker. Its first process hangs in the
engine on the first batch that is not the golden one, and keeps the interpreter's lock, as a driver
may; the process in its place works."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from hilum.engines import EngineOutput
from hilum.engines.onnxruntime import OnnxRuntimeEngine

_real = OnnxRuntimeEngine.run
_calls = 0


def _run(self: OnnxRuntimeEngine, images: Any) -> EngineOutput:
    global _calls  # noqa: PLW0603
    _calls += 1
    mark = Path(os.environ["HUNG_ENGINE_MARK"])
    if _calls > 1 and not mark.exists():
        mark.touch()
        ctypes.PyDLL(None).sleep(3600)
    return _real(self, images)


# At import: pool processes are spawned and import the main module anew.
OnnxRuntimeEngine.run = _run  # type: ignore[method-assign]

if __name__ == "__main__":
    from hilum.cli import main

    main()
