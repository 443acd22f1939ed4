"""Errors that only the trainer raises. The rest of the tree is in :mod:`hilum.errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hilum.errors import HilumError, PermanentError, TransientError


class DataError(PermanentError):
    """A data set cannot be used as it is."""

    code = "data.invalid"
    next_step = "Correct the data-set table or the files named above."


class WeightsMissingError(PermanentError):
    """The configured pretrained weights are missing. hilum never starts from random weights
    silently."""

    code = "weights.missing"
    next_step = (
        'Set `model.weights` to a path or an s3:// address, or to "random" to start from random '
        "weights."
    )


class TrainingDivergedError(PermanentError):
    """The loss became NaN or infinite."""

    code = "train.diverged"
    next_step = "Lower the learning rate. The last good checkpoint is kept."


class CheckpointError(PermanentError):
    """The checkpoint does not fit the configuration, or is damaged."""

    code = "train.bad_checkpoint"


class BadImagesError(DataError):
    """More films than allowed are missing, unreadable or listed twice."""

    code = "data.bad_images"
    next_step = (
        "Correct or remove the films that the report lists, or raise data.max_bad_fraction to go "
        "on without them. The prepared images are kept."
    )


class PatientLeakError(DataError):
    """A patient is in more than one split."""

    code = "data.patient_leak"
    next_step = "Split by patient: a model must not be tested on patients it was trained on."


class CacheWriteError(TransientError):
    """Prepared images could not be written. Those that were written are kept for the next run."""

    code = "data.cache_write"
    next_step = "Make room where HILUM_CACHE_DIR points, or point it elsewhere, and run again."


class CheckpointWriteError(TransientError):
    """A checkpoint or the state of a run could not be written. The one before is unchanged."""

    code = "train.checkpoint_write"
    next_step = "Make room on the disk or correct its permissions, then run again with --resume."


class OutputWriteError(TransientError):
    """A report or the results of an ablation could not be written. Older files are unchanged."""

    code = "train.output_write"
    next_step = (
        "Make room on the disk or correct the permissions of the folder, then run the same command "
        "again."
    )


class RunExistsError(PermanentError):
    """The folder already holds a run."""

    code = "train.run_exists"
    next_step = "Go on with --resume, or choose another folder."


class WeightsDigestError(PermanentError):
    """The pretrained weights are another file than the configuration names."""

    code = "weights.digest"
    next_step = "Fetch the file again, or correct model.weights_sha256."


@contextmanager
def writing(path: Path, error: type[HilumError] = OutputWriteError) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into an error of hilum.

    Raises:
        OutputWriteError: or ``error``; the disk is full or refuses.
    """
    try:
        yield
    except OSError as found:
        reason = found.strerror or type(found).__name__
        raise error(f"{path} cannot be written: {reason}.") from None
