"""The rest of a provider's answer, and notes about a reply.

Revision: 0004
Before: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TURN_COLUMNS = ("response_fields", "notes")


def upgrade() -> None:
    for name in TURN_COLUMNS:
        op.add_column("convstore_turns", sa.Column(name, sa.Text))


def downgrade() -> None:
    for name in reversed(TURN_COLUMNS):
        op.drop_column("convstore_turns", name)
