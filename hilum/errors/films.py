"""Images that cannot be read, and images that a model must not be asked about."""

from __future__ import annotations

from hilum.errors.tree import PermanentError


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


class WindowMissesDataError(DicomError):
    """The window or LUT of the header leaves one or two greys of a film whose values differ."""

    code = "dicom.window_misses_data"
    next_step = (
        "Correct window, VOI LUT or Pixel Representation where the film is made; no viewer shows "
        "this film as it is."
    )


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


# --- policy: what this model may be asked ---


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
