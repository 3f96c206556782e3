"""Conversations, messages and turns.

Revision: 0001
Before: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Types as they are in this revision: a migration does not follow what the models become later.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "convstore_conversations",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", KEY),
        sa.Column("title", sa.Text),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("head_seq", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("next_seq", sa.BigInteger, nullable=False),
        sa.Column("next_turn", sa.BigInteger, nullable=False),
        sa.Column("running_turn", sa.BigInteger),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_expires_at", MOMENT),
        sa.Column("lineage", sa.Text),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("deleted_at", MOMENT),
        sa.PrimaryKeyConstraint("owner", "id", name="convstore_conversations_pkey"),
    )
    named = sa.text("name IS NOT NULL AND deleted_at IS NULL")
    op.create_index(
        "convstore_conversations_owner_name_key",
        "convstore_conversations",
        ["owner", "name"],
        unique=True,
        sqlite_where=named,
        postgresql_where=named,
    )
    op.create_index(
        "convstore_conversations_owner_updated_at_id_idx",
        "convstore_conversations",
        ["owner", "updated_at", "id"],
    )
    op.create_table(
        "convstore_messages",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("parent_seq", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("content", sa.Text),
        sa.Column("extra", sa.Text),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("context_seq", sa.BigInteger, nullable=False),
        sa.Column("turn_seq", sa.BigInteger),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "seq", name="convstore_messages_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation_id"],
            ["convstore_conversations.owner", "convstore_conversations.id"],
            name="convstore_messages_owner_fkey",
        ),
    )
    op.create_table(
        "convstore_turns",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("idempotency_key", KEY),
        sa.Column("input_digest", sa.LargeBinary),
        sa.Column("base_seq", sa.BigInteger, nullable=False),
        sa.Column("first_input_seq", sa.BigInteger),
        sa.Column("last_input_seq", sa.BigInteger),
        sa.Column("output_seq", sa.BigInteger),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("window", sa.Text),
        sa.Column("response_id", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("system_fingerprint", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("total_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("usage", sa.Text),
        sa.Column("cost", sa.Numeric(18, 9)),
        sa.Column("latency_ms", sa.BigInteger),
        sa.Column("first_token_ms", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "seq", name="convstore_turns_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation_id"],
            ["convstore_conversations.owner", "convstore_conversations.id"],
            name="convstore_turns_owner_fkey",
        ),
    )
    live = sa.text("idempotency_key IS NOT NULL AND status IN ('running', 'completed')")
    op.create_index(
        "convstore_turns_owner_conversation_id_idempotency_key_key",
        "convstore_turns",
        ["owner", "conversation_id", "idempotency_key"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    compatibility = op.create_table(
        "convstore_compatibility",
        sa.Column("minimum_version", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("minimum_version", name="convstore_compatibility_pkey"),
    )
    op.bulk_insert(compatibility, [{"minimum_version": "0001"}])


def downgrade() -> None:
    op.drop_table("convstore_compatibility")
    op.drop_table("convstore_turns")
    op.drop_table("convstore_messages")
    op.drop_table("convstore_conversations")
