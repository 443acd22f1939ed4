"""The error tree. Whether a failure may be retried is a type, not a flag.

Every error carries a stable ``code`` (part of the public contract: JSON, metrics, SQL), a
``detail`` that names the rule broken and what was found, and a ``next_step`` for the reader.
No text here may contain a patient's name, an ID or a UID; *which* object failed is added by
whoever shows the error (the CLI its path, the gateway its image id).
"""

from __future__ import annotations

from typing import ClassVar, TypedDict


class ErrorBody(TypedDict):
    """The public form of an error, the same in JSON results, problem+json and SQL."""

    code: str
    detail: str
    next_step: str
    transient: bool


class HilumError(Exception):
    """Root of everything hilum raises on purpose. Raise a subclass of one of the two below."""

    code: ClassVar[str] = "hilum.error"
    next_step: ClassVar[str] = "Report this with the code above."
    transient: ClassVar[bool] = False

    def __init__(self, detail: str, *, next_step: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self._next_step = next_step or type(self).next_step

    def body(self) -> ErrorBody:
        """The error as its public JSON object."""
        return ErrorBody(
            code=self.code,
            detail=self.detail,
            next_step=self._next_step,
            transient=self.transient,
        )

    def __str__(self) -> str:
        return f"[{self.code}] {self.detail} {self._next_step}"


class PermanentError(HilumError):
    """Trying again with the same input gives the same failure."""


class TransientError(HilumError):
    """The cause may pass; the same work may succeed later."""

    transient = True


# --- wrong use ----------------------------------------------------------------------------


class ConfigurationError(PermanentError):
    """A setting is missing or contradicts another."""

    code = "config.invalid"
    next_step = "Correct the setting named above (see docs/configuration.md)."


class MissingExtraError(PermanentError):
    """A part of hilum was asked for whose dependencies are not installed."""

    code = "config.missing_extra"
    next_step = "Install the extra named above."


# --- hilum itself -------------------------------------------------------------------------


class UnexpectedError(PermanentError):
    """A mistake in hilum met one image; the others are not touched by it."""

    code = "internal.unexpected"
    next_step = "Report this to hilum's maintainers with the place named above."


class OutOfMemoryError(TransientError):
    """The machine had no memory left for one image."""

    code = "internal.out_of_memory"
    next_step = "Give the process more memory, or lower HILUM_LIMITS__MAX_PIXELS."


class DecodersUnavailableError(TransientError):
    """No decode process could be started; nothing is said about the image."""

    code = "internal.decoders_unavailable"
    next_step = "Check that the machine has memory and process slots left; the work is retried."


# --- storage ------------------------------------------------------------------------------


class InvalidURIError(PermanentError):
    """The URI's scheme is not one hilum reads, or the URI is malformed or not allowed here."""

    code = "storage.invalid_uri"
    next_step = "Use s3://bucket/key (or a local path on the command line)."


class ObjectMissingError(PermanentError):
    """The object does not exist."""

    code = "storage.object_missing"
    next_step = "Check the bucket and key, and that the upload finished before the study was sent."


class ObjectChangedError(TransientError):
    """The object was replaced between being looked at and being read."""

    code = "storage.object_changed"
    next_step = "Nothing to do: the new object is read on the next attempt."


class ObjectTooLargeError(PermanentError):
    """The object is larger than hilum is configured to read."""

    code = "storage.object_too_large"
    next_step = "Raise HILUM_LIMITS__MAX_OBJECT_BYTES if such objects are expected."


class AccessDeniedError(PermanentError):
    """The store knows who asks, and refuses this object."""

    code = "storage.access_denied"
    next_step = "Grant the configured S3 identity read access to this bucket and prefix."


class CredentialsRejectedError(TransientError):
    """The store does not accept the configured credentials.

    Transient: it is the deployment that is wrong, not the study; work waits for the operator.
    """

    code = "storage.credentials_rejected"
    next_step = "Correct HILUM_S3__ACCESS_KEY_ID and HILUM_S3__SECRET_ACCESS_KEY; work is kept."


class StorageUnavailableError(TransientError):
    """The store did not answer, or answered with a server error."""

    code = "storage.unavailable"
    next_step = "Check that the store at HILUM_S3__ENDPOINT_URL is up; work is kept and retried."


# --- DICOM --------------------------------------------------------------------------------


class DicomError(PermanentError):
    """The object is not a usable DICOM image."""

    code = "dicom.invalid"
    next_step = "Send the original object as the modality or PACS wrote it."


class EmptyObjectError(DicomError):
    """The object has no bytes."""

    code = "dicom.empty"
    next_step = "Upload the object again; it has zero bytes."


class NotDicomError(DicomError):
    """The bytes are not a DICOM Part 10 file (PS3.10 section 7.1)."""

    code = "dicom.not_dicom"


class ExecutablePreambleError(DicomError):
    """The file is a DICOM object and a program at once; no modality writes such a file."""

    code = "dicom.executable_preamble"
    next_step = "Find out where the object came from; hilum does not read it."


class TruncatedError(DicomError):
    """The file or its pixel data ends before its declared length."""

    code = "dicom.truncated"
    next_step = "Upload the object again; the transfer was cut short."


class NoPixelDataError(DicomError):
    """The object carries no image (PS3.3 C.7.6.3)."""

    code = "dicom.no_pixel_data"
    next_step = "Send image objects only (CR, DX); reports and presentation states have no pixels."


class UnsupportedTransferSyntaxError(DicomError):
    """The pixel data is encoded in a transfer syntax hilum does not decode."""

    code = "dicom.unsupported_transfer_syntax"
    next_step = "Have the sender transcode to Explicit VR Little Endian or JPEG 2000 Lossless."


class UnsupportedPixelsError(DicomError):
    """The pixel module declares something that is not a single radiograph of integers."""

    code = "dicom.unsupported_pixels"


class ColouredPixelsError(DicomError):
    """The image has colours: a photograph, an annotated screen, a rendering, but no grey film."""

    code = "dicom.coloured_pixels"
    next_step = "Send the film as the modality wrote it, not a capture with colours in it."


class InconsistentPixelsError(DicomError):
    """Header and pixel data contradict each other."""

    code = "dicom.inconsistent_pixels"


class DecodeError(DicomError):
    """The codestream cannot be decoded."""

    code = "dicom.decode_failed"


class DecoderCrashedError(DicomError):
    """The decoder crashed over this image; it ran in a process of its own."""

    code = "dicom.decoder_crashed"
    next_step = "Have the sender write the image again; report the file if it displays elsewhere."


class DecodeTimeoutError(DicomError):
    """The image took longer to decode than is allowed; its decoder was killed."""

    code = "dicom.decode_timeout"
    next_step = "Raise HILUM_LIMITS__MAX_DECODE_S if such images are expected."


class LimitExceededError(DicomError):
    """The image is larger than the configured limits."""

    code = "dicom.limit_exceeded"
    next_step = "Raise the limit named above (HILUM_LIMITS__*) if such images are expected."


# --- policy: what this model may be asked ---------------------------------------------------


class NotApplicableError(PermanentError):
    """A readable image that the model must not score."""

    code = "policy.not_applicable"
    next_step = "Send frontal chest radiographs only."


class WrongModalityError(NotApplicableError):
    """Modality (0008,0060) is not one the model was made for."""

    code = "policy.wrong_modality"


class PlainImageError(NotApplicableError):
    """A PNG or JPEG file; nothing in it says what it shows, and the model was not made for that."""

    code = "policy.plain_image"
    next_step = "Send DICOM, or use a model whose policy lists the modality OTHER."


class NotChestError(NotApplicableError):
    """The header, or the picture itself, says that this is another part of the body."""

    code = "policy.not_chest"


class LateralViewError(NotApplicableError):
    """The header, or the picture itself, says that the view is not frontal."""

    code = "policy.not_frontal"


class InvertedFilmError(NotApplicableError):
    """Black and white are exchanged on the film as it would be shown."""

    code = "policy.inverted"
    next_step = (
        "Correct Photometric Interpretation or Presentation LUT Shape where the film is made; "
        "bone has to be bright."
    )


class RotatedFilmError(NotApplicableError):
    """The film lies on its side or upside down."""

    code = "policy.rotated"
    next_step = "Turn the film upright before it is sent; head up."


class MirroredFilmError(NotApplicableError):
    """Left and right seem to be exchanged."""

    code = "policy.mirrored"
    next_step = "Check the side marker; a film seen from behind has to be flipped."


class BlankFilmError(NotApplicableError):
    """There is nothing to see on the film."""

    code = "policy.blank"
    next_step = "Check the window in the header and the exposure; the film has a single grey."


class BurnedInError(NotApplicableError):
    """The film has text burnt into it, (0028,0301), and the policy takes none."""

    code = "policy.burned_in_annotation"
    next_step = "Send the film as the modality wrote it, without text in its pixels."


class ForProcessingError(NotApplicableError):
    """The raw film, Presentation Intent Type (0008,0068) FOR PROCESSING."""

    code = "policy.for_processing"
    next_step = "Send the film for presentation that the modality makes of it."


class UnderAgeError(NotApplicableError):
    """The patient is younger than those the model was made for, or of unknown age."""

    code = "policy.under_age"
    next_step = "Use a model that was made for this age; give Patient's Age (0010,1010)."


class MultiFrameError(NotApplicableError):
    """Several frames; which of them is the film would be a guess."""

    code = "policy.multi_frame"
    next_step = "Send each film as an object of its own, or let the policy take the first frame."


# --- model packages and engines -------------------------------------------------------------


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


class UnknownModelError(PermanentError):
    """A model was asked for that is not registered here."""

    code = "model.unknown"
    next_step = "List the registered models with GET /v1/models."


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


class RefitError(PermanentError):
    """The weights of this package cannot be put into that plan."""

    code = "engine.refit_failed"
    next_step = "Build a plan of its own: `hilum engine build PACKAGE`."


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


# --- jobs -----------------------------------------------------------------------------------


class AttemptsExhaustedError(PermanentError):
    """A job or image failed as often as it is allowed to; it is quarantined, not lost."""

    code = "job.attempts_exhausted"
    next_step = "Look at the last error of the job; send the study again once the cause is gone."


class DatabaseUnavailableError(TransientError):
    """The SQL database did not answer."""

    code = "db.unavailable"
    next_step = "Check HILUM_DATABASE_URL and the server; requests are safe to repeat."


class IdempotencyKeyReusedError(PermanentError):
    """The same Idempotency-Key came with another request."""

    code = "request.idempotency_key_reused"
    next_step = "Use a new Idempotency-Key for a new request, or repeat the first one unchanged."


class LeaseLostError(TransientError):
    """Another worker holds the job by now; what this one still has to say is void."""

    code = "job.lease_lost"
    next_step = "Nothing to do: the job goes on elsewhere."


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs stay in SQL and are published when it is back."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the server; accepted studies are kept in SQL."


# --- training and export --------------------------------------------------------------------


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
