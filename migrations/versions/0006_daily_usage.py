"""What the turns of a past day used.

Revision: 0006
Before: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "convstore_daily_usage",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("day", KEY, nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.Column("sums", sa.Text),
        sa.PrimaryKeyConstraint("owner", "day", name="convstore_daily_usage_pkey"),
    )
    if op.get_context().dialect.name == "postgresql" and not op.get_context().as_sql:
        _copy_privileges()


def _copy_privileges() -> None:
    """Let each role do with the new table what it may do with the turns.

    The program may run as another role than the upgrade, and ends turns only if it may delete their sums.
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
        op.execute(sa.text(f"GRANT {privilege} ON convstore_daily_usage TO {quote(role) if role else 'PUBLIC'}"))


def downgrade() -> None:
    op.drop_table("convstore_daily_usage")
