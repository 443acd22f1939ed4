"""Performance claims, each measured beside its alternative in the same run."""
