"""``python -m support.poisoned_worker worker``: the real worker; a film of 66 rows kills the worker
process itself, one of 67 rows the decode process it is in, as crashes in C libraries would."""

from __future__ import annotations

import os
import signal
from typing import Any

from hilum.sandbox import process
from hilum.storage import ObjectStore

_ROWS_66 = b"\x28\x00\x10\x00US\x02\x00\x42\x00"
_real = ObjectStore.read


def _deadly(self: ObjectStore, uri: str, **how: Any) -> bytes:
    data = _real(self, uri, **how)
    if _ROWS_66 in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return data


# At import: pool processes are spawned and import the main module anew.
ObjectStore.read = _deadly  # type: ignore[method-assign]
process.PROGRAM = ("-m", "support.poisoned_decoder")  # type: ignore[misc]

if __name__ == "__main__":
    from hilum.cli import main

    main()
