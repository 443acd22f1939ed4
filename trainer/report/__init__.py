"""Writes the figures of an evaluation as one self-contained HTML page."""
