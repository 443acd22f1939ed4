"""``python -m support.poisoned_worker worker``: the real worker, whose decoder kills its process
on a film of 66 rows, as a crash in a C library would."""

from __future__ import annotations

import os
import signal

from hilum import scoring
from hilum.dicom import DicomObject
from hilum.preprocess import ModelInput, PreprocessSpec

_real = scoring.model_input  # type: ignore[attr-defined]


def _deadly(opened: DicomObject, spec: PreprocessSpec) -> ModelInput:
    if opened.header.rows == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    made: ModelInput = _real(opened, spec)
    return made


# At import: pool processes are spawned and import the main module anew.
scoring.model_input = _deadly  # type: ignore[attr-defined]

if __name__ == "__main__":
    from hilum.cli import main

    main()
