"""Data sets, weights, checkpoints, exports."""

from __future__ import annotations

from hilum.errors.tree import PermanentError


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


class ExportError(PermanentError):
    """The exported graph does not reproduce the checkpoint."""

    code = "export.parity"
