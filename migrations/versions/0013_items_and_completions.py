"""Ids of items, and what the routes of recorded completions need.

Revision: 0013
Before: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
REQUESTS, MESSAGES = "convstore_client_requests", "convstore_messages"
ITEM_INDEX = "convstore_messages_item_id_idx"
COMPLETION_INDEXES = {
    "owner_response_id_idx": ["owner", "response_id"],
    "completions_idx": ["owner", "created_at", "conversation_id", "turn_seq"],
}


def upgrade() -> None:
    with op.batch_alter_table(REQUESTS) as batch:
        batch.add_column(sa.Column("response_id", KEY))
        batch.add_column(sa.Column("metadata", sa.Text))
        batch.add_column(sa.Column("hidden_at", MOMENT))
    with op.batch_alter_table(MESSAGES) as batch:
        batch.add_column(sa.Column("item_id", KEY))
    op.create_index(
        ITEM_INDEX,
        MESSAGES,
        ["owner", "conversation_id", "item_id"],
        sqlite_where=sa.text("item_id IS NOT NULL"),
        postgresql_where=sa.text("item_id IS NOT NULL"),
    )
    for name, columns in COMPLETION_INDEXES.items():
        op.create_index(
            f"{REQUESTS}_{name}",
            REQUESTS,
            columns,
            sqlite_where=sa.text("response_id IS NOT NULL"),
            postgresql_where=sa.text("response_id IS NOT NULL"),
        )


def downgrade() -> None:
    for name in COMPLETION_INDEXES:
        op.drop_index(f"{REQUESTS}_{name}", REQUESTS)
    op.drop_index(ITEM_INDEX, MESSAGES)
    with op.batch_alter_table(MESSAGES) as batch:
        batch.drop_column("item_id")
    with op.batch_alter_table(REQUESTS) as batch:
        for name in ("response_id", "metadata", "hidden_at"):
            batch.drop_column(name)
