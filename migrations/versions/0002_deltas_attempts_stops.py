"""Deltas of streaming replies; a turn's attempts, and the wish to stop it; what a conversation was created with.

Revision: 0002
Before: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("convstore_conversations", sa.Column("creation_digest", sa.LargeBinary))
    op.add_column("convstore_turns", sa.Column("attempts", sa.Text))
    op.add_column("convstore_turns", sa.Column("stop_requested_at", MOMENT))
    op.create_table(
        "convstore_deltas",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("turn_seq", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("delta", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "turn_seq", "number", name="convstore_deltas_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation_id"],
            ["convstore_conversations.owner", "convstore_conversations.id"],
            name="convstore_deltas_owner_fkey",
        ),
    )


def downgrade() -> None:
    op.drop_table("convstore_deltas")
    op.drop_column("convstore_turns", "stop_requested_at")
    op.drop_column("convstore_turns", "attempts")
    op.drop_column("convstore_conversations", "creation_digest")
