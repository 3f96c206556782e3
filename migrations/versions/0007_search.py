"""The search index, and which conversations it does not have yet.

Revision: 0007
Before: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
DOCUMENTS, BACKLOG, TERMS = "convstore_search_documents", "convstore_search_backlog", "convstore_search_terms"
CONVERSATIONS, FORKS_INDEX = "convstore_conversations", "convstore_conversations_live_forks_idx"
PARENT = (["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"])
# The terms come as words without signs, which the tokenizer `ascii` leaves as they are; `_` begins an owner's term.
FTS5 = "fts5(terms, content='', detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"

PLAIN_TABLE = (
    f"CREATE TABLE {TERMS} (term TEXT NOT NULL, docid INTEGER NOT NULL,"
    f" CONSTRAINT {TERMS}_pkey PRIMARY KEY (term, docid)) WITHOUT ROWID",
    f"CREATE INDEX {TERMS}_docid_idx ON {TERMS} (docid, term)",
)


def upgrade() -> None:
    op.create_table(
        DOCUMENTS,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("docid", sa.BigInteger),
        sa.Column("late", sa.BigInteger),
        sa.Column("terms", sa.Text().with_variant(sa.ARRAY(sa.Integer), "postgresql")),
        sa.PrimaryKeyConstraint("owner", "created_us", "conversation_id", "seq", name=f"{DOCUMENTS}_pkey"),
        sa.ForeignKeyConstraint(*PARENT, name=f"{DOCUMENTS}_owner_fkey"),
    )
    op.create_table(
        BACKLOG,
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("from_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", name=f"{BACKLOG}_pkey"),
        sa.ForeignKeyConstraint(*PARENT, name=f"{BACKLOG}_owner_fkey"),
    )
    where = sa.text("docid IS NOT NULL")
    op.create_index(
        f"{DOCUMENTS}_docid_key", DOCUMENTS, ["docid"], unique=True, sqlite_where=where, postgresql_where=where
    )
    where = sa.text("lineage IS NOT NULL AND deleted_at IS NULL")
    op.create_index(FORKS_INDEX, CONVERSATIONS, ["owner", "id"], sqlite_where=where, postgresql_where=where)
    op.create_index(
        f"{DOCUMENTS}_terms_idx",
        DOCUMENTS,
        ["terms"],
        sqlite_where=sa.text("terms IS NOT NULL"),
        postgresql_using="gin",
    )
    if op.get_context().dialect.name == "sqlite":
        _create_terms_table()
    elif not op.get_context().as_sql:
        _copy_privileges(DOCUMENTS)
        _copy_privileges(BACKLOG)
    op.execute(
        f"INSERT INTO {BACKLOG} (owner, conversation_id, from_seq)"  # noqa: S608 (constants)
        " SELECT owner, id, 0 FROM convstore_conversations WHERE next_seq > 1 OR title IS NOT NULL OR name IS NOT NULL"
    )


def _create_terms_table() -> None:
    """Create the table of terms with FTS5, if this SQLite has it, else as a plain table."""
    if op.get_context().as_sql:
        op.execute(f"CREATE VIRTUAL TABLE {TERMS} USING {FTS5}")
        return
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"CREATE VIRTUAL TABLE {TERMS} USING {FTS5}")
    except sa.exc.OperationalError as error:
        if "fts5" not in str(error.orig):
            raise
        for statement in PLAIN_TABLE:
            connection.exec_driver_sql(statement)


def _copy_privileges(table: str) -> None:
    """Let each role do with the new table what it may do with the turns.

    The program may run as another role than the upgrade, and stores messages only if it may add them to the index.
    """
    connection = op.get_bind()
    quote = connection.dialect.identifier_preparer.quote
    found = connection.execute(
        sa.text("""
            SELECT coalesce(r.rolname, '') AS role, a.privilege_type AS privilege
            FROM pg_catalog.pg_class c
            CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
            LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
            WHERE c.oid = pg_catalog.to_regclass('convstore_turns') AND a.grantee <> c.relowner
              AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        """)
    ).all()
    for role, privilege in found:
        op.execute(sa.text(f"GRANT {privilege} ON {table} TO {quote(role) if role else 'PUBLIC'}"))


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute(f"DROP TABLE {TERMS}")
    op.drop_index(FORKS_INDEX, CONVERSATIONS)
    op.drop_table(BACKLOG)
    op.drop_table(DOCUMENTS)
