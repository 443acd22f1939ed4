"""The SQL truth: tables, queries, migrations. SQLAlchemy lives only here."""
