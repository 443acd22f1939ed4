"""``python -m benchmarks.peak_memory FILM SIZE``: bytes that one decoding takes at its peak, beyond
what the process and the film's own bytes take."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.decode import ours


def main() -> None:
    """Print one number."""
    data = Path(sys.argv[1]).read_bytes()
    small = Path("models/samples/no-finding.dcm").read_bytes()
    ours(small, int(sys.argv[2]))  # imports, thread pools
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    ours(data, int(sys.argv[2]))
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    """A size in /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(field + ":"))
    return int(found.split()[1]) * 1024


if __name__ == "__main__":
    main()
