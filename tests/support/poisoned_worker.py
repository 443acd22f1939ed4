"""``python -m support.poisoned_worker worker``: the real worker, whose decoder kills its process
on a film of 66 rows, as a crash in a C library would."""

from __future__ import annotations

import os
import signal

from hilum import dicom, scoring
from hilum.dicom import DicomObject, Film


def _deadly(opened: DicomObject) -> Film:
    if opened.header.rows == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    return dicom.decode(opened)


# At import: pool processes are spawned and import the main module anew.
scoring.decode = _deadly  # type: ignore[attr-defined]

if __name__ == "__main__":
    from hilum.cli import main

    main()
