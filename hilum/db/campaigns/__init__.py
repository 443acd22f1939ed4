"""Campaigns in SQL: their rows, the selection of instances, slices of jobs, pairs of results."""
