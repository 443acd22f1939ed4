"""Run by Alembic for each command. :mod:`hilum.db.migrate` hands in the connection."""

from alembic import context

from hilum.db.tables import metadata
from hilum.db.version import TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=TABLE,
    # SQLite cannot alter most of a table: Alembic then copies it.
    render_as_batch=True,
    # True of SQLite too, since BEGIN is said by us (see hilum.db.connection).
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
