"""Readers of public data sets: from their own tables to the records of a data-set table."""
