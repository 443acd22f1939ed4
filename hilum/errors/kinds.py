"""All errors of hilum. A kind that other code extends or names in its types is a class here; the
others differ in their texts alone, which ``texts.toml`` has."""

from __future__ import annotations

from hilum.errors.tree import PermanentError, TransientError, open_texts

define = open_texts(__name__)


# Configuration, and hilum itself.


class ConfigurationError(PermanentError):
    """A setting is missing or contradicts another."""

    code = "config.invalid"
    next_step = "Correct the setting named above (see docs/operate/configuration.md)."


MissingExtraError = define("MissingExtraError", PermanentError)
BrokerEvictsError = define("BrokerEvictsError", ConfigurationError)
ClockSkewedError = define("ClockSkewedError", ConfigurationError)
DiskFullError = define("DiskFullError", ConfigurationError)


class UnexpectedError(PermanentError):
    """Internal error on this image. Other images of the study are unaffected."""

    code = "internal.unexpected"
    next_step = "Report this to hilum's maintainers, with the line of code named above."


OutOfMemoryError = define("OutOfMemoryError", TransientError)
DecodersUnavailableError = define("DecodersUnavailableError", TransientError)


# Objects and the store that holds them.
InvalidURIError = define("InvalidURIError", PermanentError)
ObjectMissingError = define("ObjectMissingError", PermanentError)
ObjectAwaitedError = define("ObjectAwaitedError", TransientError)
ObjectChangedError = define("ObjectChangedError", TransientError)
ObjectTooLargeError = define("ObjectTooLargeError", PermanentError)
AccessDeniedError = define("AccessDeniedError", PermanentError)
ObjectRefusedError = define("ObjectRefusedError", PermanentError)
# Transient: the configuration is wrong, not the study, so work waits until it is corrected.
CredentialsRejectedError = define("CredentialsRejectedError", TransientError)
StoreRightsError = define("StoreRightsError", PermanentError)
StorageUnavailableError = define("StorageUnavailableError", TransientError)


# Objects that cannot be read.


class DicomError(PermanentError):
    """The object is not a usable DICOM image."""

    code = "dicom.invalid"
    next_step = "Send the original object as the modality or PACS wrote it."


EmptyObjectError = define("EmptyObjectError", DicomError)
NotDicomError = define("NotDicomError", DicomError)
ExecutablePreambleError = define("ExecutablePreambleError", DicomError)
TruncatedError = define("TruncatedError", DicomError)
NoPixelDataError = define("NoPixelDataError", DicomError)
UnsupportedTransferSyntaxError = define("UnsupportedTransferSyntaxError", DicomError)
UnsupportedPixelsError = define("UnsupportedPixelsError", DicomError)
ColouredPixelsError = define("ColouredPixelsError", DicomError)


class InconsistentPixelsError(DicomError):
    """Header and pixel data contradict each other."""

    code = "dicom.inconsistent_pixels"


WindowMissesDataError = define("WindowMissesDataError", DicomError)
DecodeError = define("DecodeError", DicomError)
DecoderCrashedError = define("DecoderCrashedError", DicomError)
DecodeTimeoutError = define("DecodeTimeoutError", DicomError)


class LimitExceededError(DicomError):
    """The image exceeds a configured limit."""

    code = "dicom.limit_exceeded"
    next_step = "Raise the limit named above (HILUM_LIMITS__*) if such images are expected."


# Films that the policy of a package refuses.


class NotApplicableError(PermanentError):
    """The film can be read, but the policy refuses it."""

    code = "policy.not_applicable"
    next_step = "Send frontal chest radiographs only."


WrongModalityError = define("WrongModalityError", NotApplicableError)
PlainImageError = define("PlainImageError", NotApplicableError)
NotChestError = define("NotChestError", NotApplicableError)
LateralViewError = define("LateralViewError", NotApplicableError)
InvertedFilmError = define("InvertedFilmError", NotApplicableError)
RotatedFilmError = define("RotatedFilmError", NotApplicableError)
MirroredFilmError = define("MirroredFilmError", NotApplicableError)
BlankFilmError = define("BlankFilmError", NotApplicableError)
BurnedInError = define("BurnedInError", NotApplicableError)
ForProcessingError = define("ForProcessingError", NotApplicableError)
UnderAgeError = define("UnderAgeError", NotApplicableError)
MultiFrameError = define("MultiFrameError", NotApplicableError)


# Model packages, engines and TensorRT plans.


class PackageError(PermanentError):
    """The model package is not valid, so nothing is scored with it."""

    code = "package.invalid"
    next_step = "Download the package again from its publisher, or export it again."


PackageMissingError = define("PackageMissingError", PackageError)
PackageDigestError = define("PackageDigestError", PackageError)
PackageUnsignedError = define("PackageUnsignedError", PackageError)
PackageSignatureError = define("PackageSignatureError", PackageError)


class PackageSchemaError(PackageError):
    """The manifest or the graph breaks the rules of the package format."""

    code = "package.schema"


UnknownBackboneError = define("UnknownBackboneError", PackageError)
GoldenCheckError = define("GoldenCheckError", PackageError)
EngineUnavailableError = define("EngineUnavailableError", PermanentError)


class EngineMissingError(PermanentError):
    """There is no TensorRT plan of this model for this machine."""

    code = "engine.missing"
    next_step = "Build one on this machine with `hilum engine build PACKAGE`."


EngineIncompatibleError = define("EngineIncompatibleError", EngineMissingError)


class EngineDamagedError(PermanentError):
    """A TensorRT plan has changed since it was built. It is not loaded, because a plan is code."""

    code = "engine.damaged"
    next_step = "Build it again with `hilum engine build PACKAGE --force`."


EngineBuildError = define("EngineBuildError", PermanentError)
EngineStoreError = define("EngineStoreError", PermanentError)


class EngineFailedError(TransientError):
    """The engine failed while it ran a batch. The images may be fine."""

    code = "engine.failed"
    next_step = "The batch will be retried. If it fails again, read the worker's log."


DeviceOutOfMemoryError = define("DeviceOutOfMemoryError", EngineFailedError)


class DeviceLostError(EngineFailedError):
    """This process can no longer use the GPU. A new process may be able to."""

    code = "engine.device_lost"
    next_step = "The worker restarts the process. If that fails, check `nvidia-smi` and `dmesg`."


# Jobs, the database and the broker.
AttemptsExhaustedError = define("AttemptsExhaustedError", PermanentError)
DatabaseUnavailableError = define("DatabaseUnavailableError", TransientError)
SchemaOutdatedError = define("SchemaOutdatedError", ConfigurationError)
SchemaTooNewError = define("SchemaTooNewError", ConfigurationError)
IdempotencyKeyReusedError = define("IdempotencyKeyReusedError", PermanentError)
LeaseLostError = define("LeaseLostError", TransientError)


class BrokerUnavailableError(TransientError):
    """The broker did not answer. Jobs are kept in SQL and published when it answers again."""

    code = "queue.unavailable"
    next_step = "Check HILUM_BROKER_URL and the broker. Accepted studies are kept in SQL."


AuditBrokenError = define("AuditBrokenError", PermanentError)
UnknownScopeError = define("UnknownScopeError", PermanentError)

# Campaigns, and the model in force.


class CampaignError(PermanentError):
    """The request contradicts the state or the rules of a campaign."""

    code = "campaign.invalid"
    next_step = "Correct the option named above."


CampaignUnknownError = define("CampaignUnknownError", CampaignError)
CampaignExistsError = define("CampaignExistsError", CampaignError)
CampaignStateError = define("CampaignStateError", CampaignError)
NothingSelectedError = define("NothingSelectedError", CampaignError)
SelectionUnknownError = define("SelectionUnknownError", CampaignError)
WindowInvalidError = define("WindowInvalidError", CampaignError)
ModelUnknownError = define("ModelUnknownError", CampaignError)
ModelUnservedError = define("ModelUnservedError", CampaignError)
PreprocessingChangedError = define("PreprocessingChangedError", CampaignError)
FailureRateError = define("FailureRateError", CampaignError)
AddressUnknownError = define("AddressUnknownError", CampaignError)
NothingToRollBackError = define("NothingToRollBackError", CampaignError)


# Jobs, and what readers say of results.
JobUnknownError = define("JobUnknownError", PermanentError)
JobCancelledError = define("JobCancelledError", PermanentError)
JobStateError = define("JobStateError", PermanentError)
NothingToRetryError = define("NothingToRetryError", PermanentError)
FeedbackLabelError = define("FeedbackLabelError", PermanentError)
ResultReplacedError = define("ResultReplacedError", PermanentError)
