"""Labelled synthetic radiographs projected from one CT."""
