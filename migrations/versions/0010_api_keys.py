"""Keys of the service: their digests, owners and rights.

Revision: 0010
Before: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)
KEYS, CONVERSATIONS = "convstore_api_keys", "convstore_conversations"


def upgrade() -> None:
    op.create_table(
        KEYS,
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("rights", sa.Text, nullable=False),
        sa.Column("acts_for", KEY),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.Column("last_used_at", MOMENT),
        sa.PrimaryKeyConstraint("digest", name=f"{KEYS}_pkey"),
    )
    op.create_index(f"{KEYS}_id_key", KEYS, ["id"], unique=True)
    op.create_index(f"{KEYS}_owner_created_at_idx", KEYS, ["owner", "created_at"])
    if op.get_context().dialect.name == "postgresql" and not op.get_context().as_sql:
        _copy_privileges()


def _copy_privileges() -> None:
    """Let each role do with keys what it may do with conversations, and delete them if it may delete pieces of replies.

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
        op.execute(sa.text(f"GRANT {privilege} ON {KEYS} TO {quote(role) if role else 'PUBLIC'}"))


def downgrade() -> None:
    op.drop_index(f"{KEYS}_owner_created_at_idx", KEYS)
    op.drop_index(f"{KEYS}_id_key", KEYS)
    op.drop_table(KEYS)
