"""``python -m benchmarks.loader_peak MANIFEST CACHE``: the peak resident bytes of a process that
loads the data set and reads two epochs of it, with its code and libraries."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.loading import SIZE, epoch
from hilum.imaging.spec import PreprocessSpec


def main() -> None:
    """Print one number."""
    path, cache = (Path(argument) for argument in sys.argv[1:3])
    for _ in range(2):
        epoch(path, PreprocessSpec(size=SIZE), cache)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) * 1024)


if __name__ == "__main__":
    main()
