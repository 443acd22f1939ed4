"""DICOM objects become films: header, checks, decoding, greyscale pipeline."""
