"""Sub-commands of `hilum` that belong to the core; one file each."""
