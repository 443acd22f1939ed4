"""Writes synthetic films as DICOM Digital X-Ray Image – For Presentation (PS3.3 section A.26)."""

from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    JPEG2000Lossless,
)

from hilum import __version__
from trainer.synthetic.film import BITS, Film

_ROOT = "2.25."  # UUID-derived UIDs, PS3.5 section B.2


def write(film: Film, *, name: str, patient: int) -> bytes:
    """``film`` as a DICOM file (PS3.10) in JPEG 2000 Lossless.

    The same arguments give the same bytes. UIDs and description are derived from ``name``, which
    identifies the film.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid("instance", name)
    meta.TransferSyntaxUID = JPEG2000Lossless
    meta.ImplementationClassUID = _uid("implementation", "hilum")
    meta.ImplementationVersionName = f"HILUM_{__version__}"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _describe(ds, name=name, patient=patient)
    _pixels(ds, film)
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _describe(ds: Dataset, *, name: str, patient: int) -> None:
    """Set patient, study, series and acquisition; type 2 attributes may be empty."""
    ds.PatientName = f"SYNTHETIC^{patient:05d}"
    ds.PatientID = f"SYNTHETIC-{patient:05d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = ""
    ds.StudyInstanceUID = _uid("study", name)
    ds.StudyDate = "20260101"
    ds.StudyTime = "000000"
    ds.ReferringPhysicianName = ""
    ds.StudyID = ""
    ds.AccessionNumber = ""
    ds.SeriesInstanceUID = _uid("series", name)
    ds.SeriesNumber = 1
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Laterality = ""
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.ImageLaterality = "U"
    ds.InstanceNumber = 1
    ds.ContentDate = ds.StudyDate
    ds.ContentTime = ds.StudyTime
    ds.Manufacturer = "hilum"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.DerivationDescription = "Synthetic projection of a CT with inserted findings"
    ds.ImageComments = "Synthetic projection, no patient. Not for clinical use."
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    ds.ViewCodeSequence = [_code("399348003", "SCT", "postero-anterior")]
    ds.AcquisitionContextSequence = []


def _pixels(ds: Dataset, film: Film) -> None:
    ds.Rows, ds.Columns = film.pixels.shape
    ds.ImagerPixelSpacing = [round(film.pixel_mm, 5)] * 2
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS, BITS - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = 2 ** (BITS - 1), 2**BITS
    ds.compress(JPEG2000Lossless, np.ascontiguousarray(film.pixels), generate_instance_uid=False)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _uid(kind: str, name: str) -> UID:
    """A UID below 2.25; the same arguments give the same UID."""
    digest = hashlib.sha256(f"hilum/{kind}/{name}".encode()).digest()
    return UID(_ROOT + str(int.from_bytes(digest[:16], "big")))
