"""What purging, redacting and retention need: tombstones, marks, periods, and what is left to do to the file.

Revision: 0009
Before: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
CONVERSATIONS, MESSAGES = "convstore_conversations", "convstore_messages"
TOMBSTONES, REDACTIONS = "convstore_tombstones", "convstore_redactions"
RETENTION, ERASURES = "convstore_retention", "convstore_erasures"
ATTACHMENTS_INDEX, FORKS_INDEX = "convstore_messages_with_attachments_idx", "convstore_conversations_forks_idx"
PARENT = (["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"])


def upgrade() -> None:
    op.create_table(
        TOMBSTONES,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source_kind", sa.Text),
        sa.Column("erased_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", name=f"{TOMBSTONES}_pkey"),
    )
    op.create_table(
        REDACTIONS,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("extent", sa.Text, nullable=False),
        sa.Column("redacted_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "seq", name=f"{REDACTIONS}_pkey"),
        sa.ForeignKeyConstraint(*PARENT, name=f"{REDACTIONS}_owner_fkey"),
    )
    op.create_table(
        RETENTION,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("covers", KEY, nullable=False),
        sa.Column("keep_seconds", sa.BigInteger, nullable=False),
        sa.Column("set_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "covers", name=f"{RETENTION}_pkey"),
    )
    op.create_table(
        ERASURES,
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("step", name=f"{ERASURES}_pkey"),
    )
    # Few rows are in either, and every release keeps them up to date.
    _create_partial_index(ATTACHMENTS_INDEX, MESSAGES, ["owner", "conversation_id", "seq"], "substr(extra, 1, 1) = '['")
    _create_partial_index(FORKS_INDEX, CONVERSATIONS, ["owner", "id"], "lineage IS NOT NULL")
    if op.get_context().dialect.name == "postgresql" and not op.get_context().as_sql:
        for table in (TOMBSTONES, REDACTIONS, RETENTION, ERASURES):
            _copy_privileges(table)


def _create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _copy_privileges(table: str) -> None:
    """Let each role do with the new table what it may do with the pieces of replies, which it adds and deletes too.

    The program may run as another role than the upgrade.
    """
    connection = op.get_bind()
    quote = connection.dialect.identifier_preparer.quote
    found = connection.execute(
        sa.text("""
            SELECT coalesce(r.rolname, '') AS role, a.privilege_type AS privilege
            FROM pg_catalog.pg_class c
            CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
            LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
            WHERE c.oid = pg_catalog.to_regclass('convstore_deltas') AND a.grantee <> c.relowner
              AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        """)
    ).all()
    for role, privilege in found:
        op.execute(sa.text(f"GRANT {privilege} ON {table} TO {quote(role) if role else 'PUBLIC'}"))


def downgrade() -> None:
    op.drop_index(FORKS_INDEX, CONVERSATIONS)
    op.drop_index(ATTACHMENTS_INDEX, MESSAGES)
    for table in (ERASURES, RETENTION, REDACTIONS, TOMBSTONES):
        op.drop_table(table)
