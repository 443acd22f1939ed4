"""Synthetic chest films with labels and boxes: projections of one CT with inserted findings."""
