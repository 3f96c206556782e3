"""What clients of the service sent: requests, by which the next ones find their conversation, and ids of items.

Revision: 0011
Before: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
REQUESTS, CONVERSATIONS = "convstore_client_requests", "convstore_conversations"
MESSAGES, ITEM_INDEX = "convstore_messages", "convstore_messages_item_id_idx"
COMPLETION_INDEXES = {
    "owner_response_id_idx": ["owner", "response_id"],
    "completions_idx": ["owner", "created_at", "conversation_id", "turn_seq"],
}


def upgrade() -> None:
    op.create_table(
        REQUESTS,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("turn_seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("sender", sa.LargeBinary, nullable=False),
        sa.Column("asked_seq", sa.BigInteger, nullable=False),
        sa.Column("asked_digest", sa.LargeBinary),
        sa.Column("context_digest", sa.LargeBinary),
        sa.Column("reply_seq", sa.BigInteger),
        sa.Column("reply_digest", sa.LargeBinary),
        sa.Column("tail_digest", sa.LargeBinary),
        sa.Column("body_digest", sa.LargeBinary),
        sa.Column("idempotency_digest", sa.LargeBinary),
        sa.Column("taken_at", MOMENT),
        sa.Column("response_id", KEY),
        sa.Column("metadata", sa.Text),
        sa.Column("hidden_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "turn_seq", name=f"{REQUESTS}_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation_id"],
            [f"{CONVERSATIONS}.owner", f"{CONVERSATIONS}.id"],
            name=f"{REQUESTS}_owner_fkey",
        ),
    )
    for column in ("asked", "reply", "tail"):
        op.create_index(
            f"{REQUESTS}_owner_{column}_digest_idx",
            REQUESTS,
            ["owner", f"{column}_digest"],
            sqlite_where=sa.text(f"{column}_digest IS NOT NULL"),
            postgresql_where=sa.text(f"{column}_digest IS NOT NULL"),
        )
    op.create_index(
        f"{REQUESTS}_owner_idempotency_digest_key",
        REQUESTS,
        ["owner", "idempotency_digest"],
        unique=True,
        sqlite_where=sa.text("idempotency_digest IS NOT NULL"),
        postgresql_where=sa.text("idempotency_digest IS NOT NULL"),
    )
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
    if op.get_context().dialect.name == "postgresql" and not op.get_context().as_sql:
        _copy_privileges()


def _copy_privileges() -> None:
    """Let each role do with requests what it may do with conversations, and delete them if it may delete deltas.

    The program may run as another role than the upgrade.
    """
    connection = op.get_bind()
    quote = connection.dialect.identifier_preparer.quote
    found = connection.execute(
        sa.text("""
            SELECT DISTINCT coalesce(r.rolname, '') AS role, a.privilege_type AS privilege
            FROM pg_catalog.pg_class c
            CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
            LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
            WHERE a.grantee <> c.relowner AND (
                (c.oid = pg_catalog.to_regclass('convstore_conversations')
                 AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
                OR (c.oid = pg_catalog.to_regclass('convstore_deltas') AND a.privilege_type = 'DELETE')
            )
            ORDER BY role, privilege
        """)
    ).all()
    for role, privilege in found:
        op.execute(sa.text(f"GRANT {privilege} ON {REQUESTS} TO {quote(role) if role else 'PUBLIC'}"))


def downgrade() -> None:
    op.drop_index(ITEM_INDEX, MESSAGES)
    with op.batch_alter_table(MESSAGES) as batch:
        batch.drop_column("item_id")
    for name in COMPLETION_INDEXES:
        op.drop_index(f"{REQUESTS}_{name}", REQUESTS)
    for name in ("owner_idempotency_digest_key", "owner_tail_digest_idx", "owner_reply_digest_idx"):
        op.drop_index(f"{REQUESTS}_{name}", REQUESTS)
    op.drop_index(f"{REQUESTS}_owner_asked_digest_idx", REQUESTS)
    op.drop_table(REQUESTS)
