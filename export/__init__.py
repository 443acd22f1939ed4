"""Checkpoint to model package. Needs the `train` extra."""
