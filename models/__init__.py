"""Data of the package ``hilum_demo``: the demonstration model and its films."""
