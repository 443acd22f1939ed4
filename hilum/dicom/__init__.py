"""DICOM objects become films: header, checks, decoding, greyscale pipeline.

``open_object`` parses and checks, ``decode`` gives the pixels as they are meant to be seen.
"""

from hilum.dicom.film import Film, decode
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject, open_object

__all__ = ["DicomObject", "Film", "FilmHeader", "decode", "open_object"]
