"""Errors that only training raises. The rest of the tree is in :mod:`hilum.errors`."""

from __future__ import annotations

from hilum.errors import PermanentError, TransientError


class DataError(PermanentError):
    """A data set cannot be used as it is."""

    code = "data.invalid"
    next_step = "Correct the manifest or files named above."


class WeightsMissingError(PermanentError):
    """Pretrained weights were asked for and are not there; hilum never starts from random."""

    code = "weights.missing"
    next_step = (
        'Give `weights = <path or s3://…>`, or ask for `weights = "random"` in so many words.'
    )


class TrainingDivergedError(PermanentError):
    """The loss became NaN or infinite."""

    code = "train.diverged"
    next_step = "Lower the learning rate; the last good checkpoint is kept."


class CheckpointError(PermanentError):
    """The checkpoint does not fit the configuration, or is damaged."""

    code = "train.bad_checkpoint"


class BadImagesError(DataError):
    """More images than allowed are missing, unreadable or there twice."""

    code = "data.bad_images"
    next_step = (
        "Correct or remove the images of the report, or raise data.max_bad_fraction to go on "
        "without them; what is prepared is kept."
    )


class PatientLeakError(DataError):
    """A patient is in more than one split."""

    code = "data.patient_leak"
    next_step = "Split by patient: a model is not to be tested on who it was trained on."


class CacheWriteError(TransientError):
    """Prepared images could not be written; what is whole is kept for the next run."""

    code = "data.cache_write"
    next_step = "Make room where HILUM_CACHE_DIR points, or point it elsewhere, and run again."


class CheckpointWriteError(TransientError):
    """A checkpoint or the state of a run could not be written; the one before is untouched."""

    code = "train.checkpoint_write"
    next_step = "Make room on the disk or correct its permissions, then run again with --resume."


class OutputWriteError(TransientError):
    """A report or the results of an ablation could not be written; what was there still is."""

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
    """The pretrained weights are not the file that was asked for."""

    code = "weights.digest"
    next_step = "Fetch the file again, or correct model.weights_sha256."
