"""Titles made of first messages, archived conversations, tags, and ratings of replies.

Revision: 0008
Before: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
CONVERSATIONS, TAGS, RATINGS = "convstore_conversations", "convstore_tags", "convstore_ratings"
LIVE_INDEX = "convstore_conversations_live_updated_at_idx"
LISTED_INDEX = "convstore_conversations_listed_updated_at_idx"
ARCHIVED_INDEX = "convstore_conversations_archived_updated_at_idx"
LIVE, LISTED, ARCHIVED = (
    "deleted_at IS NULL",
    "deleted_at IS NULL AND archived_at IS NULL",
    "deleted_at IS NULL AND archived_at IS NOT NULL",
)
PARENT = (["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"])


def upgrade() -> None:
    op.add_column(CONVERSATIONS, sa.Column("archived_at", MOMENT))
    op.add_column(CONVERSATIONS, sa.Column("made_title", sa.Text))
    # The usual, the archived and the deleted conversations have an index each, so that a page of one reads no others.
    op.drop_index(LIVE_INDEX, CONVERSATIONS)
    _create_list_index(LISTED_INDEX, LISTED)
    _create_list_index(ARCHIVED_INDEX, ARCHIVED)
    op.create_table(
        TAGS,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("tag", KEY, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "tag", name=f"{TAGS}_pkey"),
        sa.ForeignKeyConstraint(*PARENT, name=f"{TAGS}_owner_fkey"),
    )
    op.create_index(f"{TAGS}_owner_tag_conversation_id_idx", TAGS, ["owner", "tag", "conversation_id"])
    op.create_table(
        RATINGS,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("rating", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("rated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "seq", name=f"{RATINGS}_pkey"),
        sa.ForeignKeyConstraint(*PARENT, name=f"{RATINGS}_owner_fkey"),
    )
    if op.get_context().dialect.name == "postgresql" and not op.get_context().as_sql:
        _copy_privileges(TAGS)
        _copy_privileges(RATINGS)


def _create_list_index(name: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, CONVERSATIONS, ["owner", "updated_at", "id"], sqlite_where=where, postgresql_where=where)


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
    op.drop_table(RATINGS)
    op.drop_table(TAGS)
    op.drop_index(ARCHIVED_INDEX, CONVERSATIONS)
    op.drop_index(LISTED_INDEX, CONVERSATIONS)
    _create_list_index(LIVE_INDEX, LIVE)
    op.drop_column(CONVERSATIONS, "made_title")
    op.drop_column(CONVERSATIONS, "archived_at")
