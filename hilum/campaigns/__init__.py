"""Campaigns: scoring an archive again, night by night, and putting a model in force afterwards.

``windows`` says when a campaign may run, ``planning`` what it would do, ``steps`` advances it,
``comparing`` and ``page`` report on it, ``indexing`` enters an archive that was never scored.
SQL is in :mod:`hilum.db.campaigns`.
"""
