"""Model packages: the manifest, and how packages are loaded, compared and signed."""
