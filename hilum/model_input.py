"""From a parsed object to model input, as the package has it: for serving and for training."""

from __future__ import annotations

from hilum import dicom
from hilum.dicom import DicomObject
from hilum.preprocess import Extent, ModelInput, PreprocessSpec, prepare


def model_input(opened: DicomObject, spec: PreprocessSpec) -> ModelInput:
    """Decode as much of ``opened`` as ``spec`` asks for, and prepare it.

    Raises:
        DicomError: the pixels cannot be decoded, see :func:`hilum.dicom.decode`.
    """
    film = dicom.decode(opened, side=spec.decode_side)
    extent = Extent(rows=film.header.rows, columns=film.header.columns, box=film.box)
    return prepare(film.pixels, spec, padding=film.padding, extent=extent)
