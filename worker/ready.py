"""``python -m worker.ready PORT PROCESSES``: exit 0 once so many processes have an engine.

For probes of an orchestrator: it asks the worker's own metrics, imports only the standard library
and takes a tenth of a second. A process shows its engine after the golden check has passed.
"""

from __future__ import annotations

import sys
import urllib.request
from typing import Final

_METRIC: Final = "hilum_engine_info{"


def engines(port: int) -> float:
    """How many processes of the worker whose metrics are at ``port`` have an engine.

    Raises:
        OSError: the worker does not answer.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=4) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_METRIC))


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 ready, 1 not yet."""
    port, processes = int(arguments[0]), int(arguments[1])
    try:
        found = engines(port)
    except OSError as error:
        sys.stdout.write(f"the worker does not answer ({type(error).__name__})\n")
        return 1
    sys.stdout.write(f"{found:.0f} of {processes} processes have an engine\n")
    return 0 if found >= processes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
