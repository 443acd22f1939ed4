"""From a parsed object to model input, as the package has it: for serving and for training."""

from __future__ import annotations

from hilum import dicom
from hilum.dicom import DicomObject
from hilum.imaging.transform import (
    Extent,
    Grey,
    ModelInput,
    PreprocessSpec,
    from_kept,
    intermediate,
    prepare,
)


def model_input(opened: DicomObject, spec: PreprocessSpec) -> ModelInput:
    """Decode as much of ``opened`` as ``spec`` asks for, and prepare it.

    Raises:
        DicomError: the pixels cannot be decoded, see :func:`hilum.dicom.decode`.
    """
    return from_kept(kept(opened, spec), spec)


def kept(opened: DicomObject, spec: PreprocessSpec) -> Grey | ModelInput:
    """As :func:`model_input`, up to the stage that is worth keeping: the intermediate, if ``spec``
    has one, else the input itself.

    Raises:
        DicomError: as :func:`model_input`.
    """
    film = dicom.decode_rows(opened, side=spec.decode_side)
    extent = Extent(rows=film.header.rows, columns=film.header.columns, box=film.box)
    if spec.intermediate is None:
        return prepare(film.pixels, spec, padding=film.padding, extent=extent)
    return intermediate(film.pixels, spec.intermediate, padding=film.padding, film=extent)
