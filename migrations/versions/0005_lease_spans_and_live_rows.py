"""How long a lease lasts, the model that a fork inherits, and indexes that leave out deleted conversations.

Revision: 0005
Before: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = "convstore_conversations"
OLD_INDEX = "convstore_conversations_owner_updated_at_id_idx"
INDEXES = (
    ("convstore_conversations_live_updated_at_idx", ["owner", "updated_at", "id"], "deleted_at IS NULL"),
    ("convstore_conversations_deleted_updated_at_idx", ["owner", "updated_at", "id"], "deleted_at IS NOT NULL"),
    ("convstore_conversations_live_id_idx", ["owner", "id"], "deleted_at IS NULL"),
)


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("lease_ms", sa.BigInteger))
    op.add_column(TABLE, sa.Column("inherited_model", sa.Text))
    for name, columns, condition in INDEXES:
        where = sa.text(condition)
        op.create_index(name, TABLE, columns, sqlite_where=where, postgresql_where=where)
    op.drop_index(OLD_INDEX, TABLE)


def downgrade() -> None:
    op.create_index(OLD_INDEX, TABLE, ["owner", "updated_at", "id"])
    for name, _, _ in INDEXES:
        op.drop_index(name, TABLE)
    op.drop_column(TABLE, "inherited_model")
    op.drop_column(TABLE, "lease_ms")
