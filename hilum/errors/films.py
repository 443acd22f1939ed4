"""Errors for objects that cannot be read, and for films that the policy refuses."""

from __future__ import annotations

from hilum.errors.tree import PermanentError


class DicomError(PermanentError):
    """The object is not a usable DICOM image."""

    code = "dicom.invalid"
    next_step = "Send the original object as the modality or PACS wrote it."


class EmptyObjectError(DicomError):
    """The object is empty (zero bytes)."""

    code = "dicom.empty"
    next_step = "Upload the object again: it is empty."


class NotDicomError(DicomError):
    """The bytes are not a DICOM Part 10 file (PS3.10 section 7.1)."""

    code = "dicom.not_dicom"


class ExecutablePreambleError(DicomError):
    """The file is both a DICOM object and an executable. No modality writes such a file."""

    code = "dicom.executable_preamble"
    next_step = "Find out who produced the object. hilum does not read executables."


class TruncatedError(DicomError):
    """The file or its pixel data ends before its declared length."""

    code = "dicom.truncated"
    next_step = "Upload the object again: the transfer was incomplete."


class NoPixelDataError(DicomError):
    """The object has no pixel data (PS3.3 C.7.6.3)."""

    code = "dicom.no_pixel_data"
    next_step = "Send images only (CR, DX). Reports and presentation states have no pixels."


class UnsupportedTransferSyntaxError(DicomError):
    """hilum does not decode the transfer syntax of the pixel data."""

    code = "dicom.unsupported_transfer_syntax"
    next_step = "Have the sender transcode to Explicit VR Little Endian or JPEG 2000 Lossless."


class UnsupportedPixelsError(DicomError):
    """The image pixel module does not describe a grey radiograph with integer pixels."""

    code = "dicom.unsupported_pixels"


class ColouredPixelsError(DicomError):
    """The image has colours, as a photograph, a screen capture or a rendering has."""

    code = "dicom.coloured_pixels"
    next_step = "Send the original grey film from the modality, not a coloured capture of it."


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
    """The decode process crashed while it decoded this image."""

    code = "dicom.decoder_crashed"
    next_step = "Have the sender export the image again. Report the file if other viewers show it."


class DecodeTimeoutError(DicomError):
    """Decoding took longer than the limit, so hilum killed the decode process."""

    code = "dicom.decode_timeout"
    next_step = "Raise HILUM_LIMITS__MAX_DECODE_S if such images are expected."


class LimitExceededError(DicomError):
    """The image exceeds a configured limit."""

    code = "dicom.limit_exceeded"
    next_step = "Raise the limit named above (HILUM_LIMITS__*) if such images are expected."


# --- refused by the policy of the package ---


class NotApplicableError(PermanentError):
    """The film can be read, but the policy refuses it."""

    code = "policy.not_applicable"
    next_step = "Send frontal chest radiographs only."


class WrongModalityError(NotApplicableError):
    """The policy does not list the film's Modality (0008,0060)."""

    code = "policy.wrong_modality"


class PlainImageError(NotApplicableError):
    """The film is a PNG or JPEG file, which has no header, and the policy takes DICOM only."""

    code = "policy.plain_image"
    next_step = "Send DICOM, or use a model whose policy lists the modality OTHER."


class NotChestError(NotApplicableError):
    """The header or the film check says that the film shows another part of the body."""

    code = "policy.not_chest"


class LateralViewError(NotApplicableError):
    """The header or the film check says that the view is not frontal."""

    code = "policy.not_frontal"


class InvertedFilmError(NotApplicableError):
    """The film is inverted: bone would be shown dark."""

    code = "policy.inverted"
    next_step = (
        "Correct Photometric Interpretation or Presentation LUT Shape at the modality: "
        "bone must be bright."
    )


class RotatedFilmError(NotApplicableError):
    """The film lies on its side or upside down."""

    code = "policy.rotated"
    next_step = "Turn the film upright (head up) before sending it."


class MirroredFilmError(NotApplicableError):
    """The film seems to be mirrored (left and right exchanged)."""

    code = "policy.mirrored"
    next_step = "Check the side marker, and flip a film that is shown from behind."


class BlankFilmError(NotApplicableError):
    """The film is blank."""

    code = "policy.blank"
    next_step = "Check the exposure and the window in the header: the film has almost one grey."


class BurnedInError(NotApplicableError):
    """Burned In Annotation (0028,0301) is YES, and the policy refuses such films."""

    code = "policy.burned_in_annotation"
    next_step = "Send the original film from the modality, without text in its pixels."


class ForProcessingError(NotApplicableError):
    """Presentation Intent Type (0008,0068) is FOR PROCESSING, and the policy refuses raw films."""

    code = "policy.for_processing"
    next_step = "Send the FOR PRESENTATION film that the modality makes from it."


class UnderAgeError(NotApplicableError):
    """The patient is younger than the policy's minimum age, or the age is unknown."""

    code = "policy.under_age"
    next_step = "Use a model made for this age, or send Patient's Age (0010,1010) if it is missing."


class MultiFrameError(NotApplicableError):
    """The object has several frames, and the policy does not say to take the first."""

    code = "policy.multi_frame"
    next_step = "Send each film as a separate object, or set the policy's multi_frame to `first`."
