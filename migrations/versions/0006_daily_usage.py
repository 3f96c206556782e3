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


def downgrade() -> None:
    op.drop_table("convstore_daily_usage")
