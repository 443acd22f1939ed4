"""Errors of model packages, engines and TensorRT plans."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError


class PackageError(PermanentError):
    """The model package is not valid, so nothing is scored with it."""

    code = "package.invalid"
    next_step = "Download the package again from its publisher, or export it again."


class PackageMissingError(PackageError):
    """There is no model package at the given location."""

    code = "package.missing"
    next_step = "Point --model or HILUM_MODEL_URI at a package folder, archive or s3:// address."


class PackageDigestError(PackageError):
    """A file of the package does not match its sha256 in the manifest, or is missing or extra."""

    code = "package.digest_mismatch"


class PackageUnsignedError(PackageError):
    """HILUM_TRUSTED_SIGNERS is set, and the package is not signed."""

    code = "package.unsigned"
    next_step = "Have its publisher sign it (`hilum package sign`), or unset HILUM_TRUSTED_SIGNERS."


class PackageSignatureError(PackageError):
    """The signature is damaged, made by an untrusted key, or made for another manifest."""

    code = "package.signature"
    next_step = "Download the package again. If that fails too, ask its publisher who signed it."


class PackageSchemaError(PackageError):
    """The manifest or the graph breaks the rules of the package format."""

    code = "package.schema"


class UnknownBackboneError(PackageError):
    """The manifest names a backbone that this version of hilum does not know."""

    code = "package.unknown_backbone"
    next_step = "Update hilum, or export the model with this version."


class GoldenCheckError(PackageError):
    """The engine does not reproduce the golden outputs of the package on this machine."""

    code = "package.golden_mismatch"
    next_step = "Do not use this engine. Run `hilum package verify` on another machine to compare."


class EngineUnavailableError(PermanentError):
    """The configured engine cannot run on this machine."""

    code = "engine.unavailable"
    next_step = "Install what is missing, or set HILUM_ENGINE to `onnxruntime`."


class EngineMissingError(PermanentError):
    """There is no TensorRT plan of this model for this machine."""

    code = "engine.missing"
    next_step = "Build one on this machine with `hilum engine build PACKAGE`."


class EngineIncompatibleError(EngineMissingError):
    """All TensorRT plans of this model were built for another GPU or TensorRT version."""

    code = "engine.incompatible"


class EngineDamagedError(PermanentError):
    """A TensorRT plan has changed since it was built. It is not loaded, because a plan is code."""

    code = "engine.damaged"
    next_step = "Build it again with `hilum engine build PACKAGE --force`."


class EngineBuildError(PermanentError):
    """TensorRT cannot build a plan of this graph."""

    code = "engine.build_failed"
    next_step = "Set HILUM_ENGINE to `onnxruntime`, or report this with the message above."


class EngineStoreError(PermanentError):
    """A TensorRT plan could not be written. The previous plan stays in use."""

    code = "engine.store"
    next_step = "Free space at HILUM_TENSORRT__ENGINE_DIR (or HILUM_CACHE_DIR) and build it again."


class EngineFailedError(TransientError):
    """The engine failed while it ran a batch. The images may be fine."""

    code = "engine.failed"
    next_step = "The batch will be retried. If it fails again, read the worker's log."


class DeviceOutOfMemoryError(EngineFailedError):
    """The GPU ran out of memory."""

    code = "engine.out_of_memory"
    next_step = "Run fewer processes on this GPU, or lower HILUM_WORKER__BATCH_SIZE."


class DeviceLostError(EngineFailedError):
    """This process can no longer use the GPU. A new process may be able to."""

    code = "engine.device_lost"
    next_step = "The worker restarts the process. If that fails, check `nvidia-smi` and `dmesg`."
