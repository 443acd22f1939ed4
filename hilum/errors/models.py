"""Model packages, engines and their plans."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class PackageError(PermanentError):
    """The model package cannot be trusted; nothing is scored with it."""

    code = "package.invalid"
    next_step = "Fetch the package again from where it was published, or export it again."


class PackageMissingError(PackageError):
    """There is no model package at the place given."""

    code = "package.missing"
    next_step = "Point --model or HILUM_MODEL_URI at a package folder, archive or s3:// address."


class PackageDigestError(PackageError):
    """A file of the package is not the one its manifest describes."""

    code = "package.digest_mismatch"


class PackageUnsignedError(PackageError):
    """Only signed packages are trusted here, and this one is not."""

    code = "package.unsigned"
    next_step = "Have its publisher sign it (`hilum package sign`), or unset HILUM_TRUSTED_SIGNERS."


class PackageSignatureError(PackageError):
    """The package's signature is damaged, of nobody trusted, or not over this manifest."""

    code = "package.signature"
    next_step = "Fetch the package again; if it persists, ask its publisher which key signed it."


class PackageSchemaError(PackageError):
    """The manifest or the graph breaks the package contract."""

    code = "package.schema"


class UnknownBackboneError(PackageError):
    """The manifest names a backbone this version does not know."""

    code = "package.unknown_backbone"
    next_step = "Update hilum, or export the model with this version."


class GoldenCheckError(PackageError):
    """This machine does not reproduce the outputs recorded in the package."""

    code = "package.golden_mismatch"
    next_step = "Do not use this engine; compare `hilum package verify` on another machine."


class EngineUnavailableError(PermanentError):
    """The engine asked for cannot run on this machine."""

    code = "engine.unavailable"
    next_step = "Install what is named above, or choose engine `onnxruntime`."


class EngineMissingError(PermanentError):
    """No TensorRT plan of this model fits this machine."""

    code = "engine.missing"
    next_step = "Build one on this machine: `hilum engine build PACKAGE`."


class EngineIncompatibleError(EngineMissingError):
    """There are TensorRT plans of this model, made for another GPU or another TensorRT."""

    code = "engine.incompatible"


class EngineDamagedError(PermanentError):
    """A TensorRT plan is not the file that was built; it is not loaded, for a plan is code."""

    code = "engine.damaged"
    next_step = "Build it again: `hilum engine build PACKAGE --force`."


class EngineBuildError(PermanentError):
    """TensorRT cannot make a plan of this graph."""

    code = "engine.build_failed"
    next_step = "Use engine `onnxruntime`, or report this with the message above."


class EngineStoreError(PermanentError):
    """A plan could not be written; the one that was there before is still in use."""

    code = "engine.store"
    next_step = "Free space at HILUM_TENSORRT__ENGINE_DIR (or HILUM_CACHE_DIR), and build again."


class EngineFailedError(TransientError):
    """The engine failed while running; the input may be fine."""

    code = "engine.failed"
    next_step = "The batch is retried; if it persists, look at the worker's log."


class DeviceOutOfMemoryError(EngineFailedError):
    """The GPU has no memory left for this batch."""

    code = "engine.out_of_memory"
    next_step = "Run fewer processes on this GPU, or lower HILUM_WORKER__BATCH_SIZE."


class DeviceLostError(EngineFailedError):
    """The GPU does not answer this process any more; another process may reach it."""

    code = "engine.device_lost"
    next_step = "The worker replaces the process; if it persists, look at `nvidia-smi` and dmesg."
