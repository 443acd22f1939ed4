"""``python -m benchmarks.peak_memory FILM SIZE``: the bytes that one decoding needs at its peak,
without those of the process and of the film."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.decode import ours


def main() -> None:
    """Print one number."""
    data = Path(sys.argv[1]).read_bytes()
    small = Path("models/samples/no-finding.dcm").read_bytes()
    ours(small, int(sys.argv[2]))  # import modules and start thread pools first
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
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
