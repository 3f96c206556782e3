"""Heads that move, forks, windows, pins, summaries, attachments; what usage is summed up by.

Revision: 0003
Before: 0002
"""

from __future__ import annotations

import base64
import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)

CONVERSATION_COLUMNS = ("window", "pins", "redo")
MESSAGE_COLUMNS = ("back_32", "back_1024", "back_32768")


def upgrade() -> None:
    for name in CONVERSATION_COLUMNS:
        op.add_column("convstore_conversations", sa.Column(name, sa.Text))
    op.add_column("convstore_conversations", sa.Column("summary_turn", sa.BigInteger))
    op.add_column("convstore_conversations", sa.Column("compacting_until", MOMENT))
    for name in MESSAGE_COLUMNS:
        op.add_column("convstore_messages", sa.Column(name, sa.BigInteger))
    op.add_column("convstore_turns", sa.Column("purpose", sa.Text))
    op.add_column("convstore_turns", sa.Column("requested_model", sa.Text))
    op.add_column("convstore_turns", sa.Column("estimated_tokens", sa.BigInteger))
    op.create_index("convstore_turns_owner_started_at_idx", "convstore_turns", ["owner", "started_at"])
    op.create_table(
        "convstore_summaries",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("conversation_id", KEY, nullable=False),
        sa.Column("turn_seq", sa.BigInteger, nullable=False),
        sa.Column("up_to_seq", sa.BigInteger, nullable=False),
        sa.Column("up_to_position", sa.BigInteger, nullable=False),
        sa.Column("previous_turn", sa.BigInteger),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "conversation_id", "turn_seq", name="convstore_summaries_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation_id"],
            ["convstore_conversations.owner", "convstore_conversations.id"],
            name="convstore_summaries_owner_fkey",
        ),
    )
    op.create_table(
        "convstore_attachments",
        sa.Column("owner", KEY, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "digest", name="convstore_attachments_pkey"),
    )


def downgrade() -> None:
    _put_attachments_back()
    op.drop_table("convstore_attachments")
    op.drop_table("convstore_summaries")
    op.drop_index("convstore_turns_owner_started_at_idx", "convstore_turns")
    for name in ("estimated_tokens", "requested_model", "purpose"):
        op.drop_column("convstore_turns", name)
    for name in reversed(MESSAGE_COLUMNS):
        op.drop_column("convstore_messages", name)
    for name in ("compacting_until", "summary_turn", *reversed(CONVERSATION_COLUMNS)):
        op.drop_column("convstore_conversations", name)


def _put_attachments_back() -> None:
    """Make messages whole again: 0002 knows no other place for images, sounds and files."""
    if op.get_context().as_sql:
        raise RuntimeError("this downgrade reads what is in the messages: it cannot be written as SQL, only run")
    connection = op.get_bind()
    names = ("owner", "conversation_id", "seq", "extra")
    messages = sa.table("convstore_messages", *(sa.column(name) for name in names))
    attachments = sa.table("convstore_attachments", *(sa.column(name) for name in ("owner", "digest", "data")))
    # A list, where others have an object: [the object with nulls, [[path, prefix, digest, size], …]].
    key = (messages.c.owner, messages.c.conversation_id, messages.c.seq)
    for row in connection.execute(sa.select(*key).where(messages.c.extra.like("[%"))).all():
        where = [column == value for column, value in zip(key, row, strict=True)]
        fields, references = json.loads(connection.scalar(sa.select(messages.c.extra).where(*where)) or "")
        for path, prefix, digest, _ in references:
            kept = (attachments.c.owner == row.owner, attachments.c.digest == bytes.fromhex(digest))
            data = connection.scalar(sa.select(attachments.c.data).where(*kept))
            if data is None:
                raise RuntimeError(
                    f"message seq {row.seq} of conversation {row.conversation_id}: its attachment {digest} is missing"
                )
            *way, last = path
            inner = fields
            for step in way:
                inner = inner[step]
            inner[last] = prefix + base64.b64encode(data).decode()
        connection.execute(sa.update(messages).where(*where).values(extra=json.dumps(fields, separators=(",", ":"))))
