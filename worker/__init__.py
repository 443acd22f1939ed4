"""Celery workers: jobs in, results out. Needs the `serve` extra."""
