"""The worker: takes jobs from the queues, scores their images, writes results to SQL.

Side effects by module: ``app`` and ``tasks`` know Celery, ``process`` holds what a pool process
has loaded, ``run`` works on one job, ``sweeping`` finds jobs whose task was lost.
"""
