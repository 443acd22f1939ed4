"""``python -m benchmarks.engine_child hilum|torch STARTED FILE``: one fresh process, from its start
(STARTED, seconds since the epoch) to the first result with a map; prints a JSON object."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil


def hilum(location: str) -> None:
    """Do what a worker does: verify, open, golden check, score with all maps."""
    from hilum.engines.loading import open_engine
    from hilum.packages.load import verify
    from hilum.settings import Settings

    package = verify(Path(location))
    engine = open_engine(package, Settings(engine="onnxruntime"))
    size = package.manifest.input.size
    engine.run(np.zeros((1, 1, size, size), dtype=np.uint8))


def torch(location: str) -> None:
    """Run the same model from a state dict in torch eager, with one map by the grad-cam package."""
    import torch as framework

    from benchmarks.engine_peers import torch_eager
    from trainer.backbones import build

    model = build("resnet18", 6)
    model.load_state_dict(framework.load(location, weights_only=True))
    image = framework.zeros((1, 1, 224, 224))
    torch_eager(model.eval()).maps(image, [0])


def main() -> None:
    """Run one side."""
    {"hilum": hilum, "torch": torch}[sys.argv[1]](sys.argv[3])
    taken = time.time() - float(sys.argv[2])
    memory = psutil.Process().memory_info().rss
    print(json.dumps({"seconds": taken, "rss": memory}))


if __name__ == "__main__":
    main()
