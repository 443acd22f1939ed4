"""What makes the film check, the demonstration model and the samples; not in the wheel."""
