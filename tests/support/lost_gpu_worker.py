"""``python -m support.lost_gpu_worker worker``: the real worker, whose first process loses its GPU
on the first batch that is not the golden one; the process in its place has one again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hilum.engines import EngineOutput
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.errors import DeviceLostError

_real = OnnxRuntimeEngine.run
_calls = 0


def _run(self: OnnxRuntimeEngine, images: Any) -> EngineOutput:
    global _calls  # noqa: PLW0603
    _calls += 1
    mark = Path(os.environ["LOST_GPU_MARK"])
    if _calls > 1 and (not mark.exists() or mark.read_text() == str(os.getpid())):
        mark.write_text(str(os.getpid()))
        raise DeviceLostError("The GPU was lost in cudaStreamSynchronize.")
    return _real(self, images)


# At import: pool processes are spawned and import the main module anew.
OnnxRuntimeEngine.run = _run  # type: ignore[method-assign]

if __name__ == "__main__":
    from hilum.cli import main

    main()
