"""Measures a model on films it was not trained on, and the precision of each figure."""
