"""Makes the film check, the demonstration package, the samples and releases; not in the wheel."""
