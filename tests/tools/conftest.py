"""The chest of the CT."""

from support.chests import chest, wheel_cache

__all__ = ["chest", "wheel_cache"]
