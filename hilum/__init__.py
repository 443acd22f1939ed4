"""hilum: chest X-ray inference that a hospital can put into production.

This package is the core that all services share. It imports no torch, no Celery and no web
framework; those live in ``trainer``, ``worker`` and ``api_gateway``, which import this and
never the other way round.
"""

__version__ = "0.1.0"  # the only place; the package, the API and DICOM objects read it
