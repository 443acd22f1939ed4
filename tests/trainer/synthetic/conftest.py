"""The chest of the CT."""

from support.chests import chest, patient, wheel_cache

__all__ = ["chest", "patient", "wheel_cache"]
