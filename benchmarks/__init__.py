"""Performance claims, each beside its alternative in the same run."""
