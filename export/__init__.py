"""Make model packages from checkpoints. Needs the `train` extra."""
