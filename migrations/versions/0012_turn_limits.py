"""How much the owner of a key may ask of models, and an index of the turns that run.

Revision: 0012
Before: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KEYS, COLUMNS = "convstore_api_keys", ("max_turns", "max_tokens_a_day")
TURNS, INDEX = "convstore_turns", "convstore_turns_running_idx"


def upgrade() -> None:
    with op.batch_alter_table(KEYS) as batch:
        for column in COLUMNS:
            batch.add_column(sa.Column(column, sa.BigInteger))
    running = sa.text("status = 'running'")
    op.create_index(INDEX, TURNS, ["owner", "conversation_id"], sqlite_where=running, postgresql_where=running)


def downgrade() -> None:
    op.drop_index(INDEX, TURNS)
    with op.batch_alter_table(KEYS) as batch:
        for column in COLUMNS:
            batch.drop_column(column)
