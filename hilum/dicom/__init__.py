"""Read films from DICOM objects: header, checks, decoding, greyscale pipeline.

``open_object`` parses and checks a DICOM object. ``open_film`` also accepts PNG and JPEG files.
``decode`` gives the pixels as a viewer shows them; ``decode_rows`` gives some rows at a time.
"""

from hilum.dicom.film import Film, RowFilm, decode, decode_rows, open_film
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject, open_object

__all__ = [
    "DicomObject",
    "Film",
    "FilmHeader",
    "RowFilm",
    "decode",
    "decode_rows",
    "open_film",
    "open_object",
]
