"""The model package: its manifest, where it comes from, how it is read, compared and signed."""
