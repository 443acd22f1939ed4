"""Results say why their engine was chosen.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nullable and without a default: no row is rewritten, however many there are.
    op.add_column("results", sa.Column("engine_reason", sa.String(64)))


def downgrade() -> None:
    op.drop_column("results", "engine_reason")
