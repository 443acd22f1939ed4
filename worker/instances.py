"""From the header of a film to its row in SQL; it is in :mod:`hilum.pipeline.instances` now."""

from hilum.pipeline.instances import new_instance

__all__ = ["new_instance"]
