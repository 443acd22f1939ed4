"""What a model is worth on films it has not seen, and how far each figure can be trusted."""
