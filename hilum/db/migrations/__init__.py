"""Alembic's scripts, run by :mod:`hilum.db.migrate`.

A new one is written by hand as ``versions/NNNN_what.py``; a test compares the migrated schema
with :data:`hilum.db.tables.metadata` on SQLite and PostgreSQL.
"""
