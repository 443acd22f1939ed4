"""Operators' view of jobs: list them, and cancel, retry or requeue one or very many.

``filters`` says which jobs, ``listing`` reads them, ``steps`` changes a bounded number of them in
one transaction, and ``run`` repeats that until no chosen job is left.

A cancelled job is ``failed`` with the error ``job.cancelled`` (decision 0060). A retry leaves the
ended job as it is and adds a new job over its images that have no result (decision 0061).
"""
