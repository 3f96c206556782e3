"""Define the tables. Alembic's migrations create them, and a test compares both.

Every name begins with `convstore_`, because an application may share its database with convstore, and most have a table
called `messages`. Every key begins with the owner, so that the key of one owner cannot reach the rows of another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

VERSION_TABLE = "convstore_version"

# Ids, names and keys are compared byte by byte, so that both databases sort them and match prefixes in the same way.
Key = Text().with_variant(Text(collation="C"), "postgresql")


class _SqliteTime(sqlite.DATETIME):
    """A time as SQLite stores it. A text that is not a time is returned as it is, so that an error can name its row."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            try:
                return read(value) if read is not None else value
            except (ValueError, TypeError):
                return value

        return process


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC.

    SQLite stores it as text without a time zone. PostgreSQL stores a `timestamptz`, which is converted to UTC when it
    is read.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_SqliteTime() if dialect.name == "sqlite" else DateTime(timezone=True))  # type: ignore[no-untyped-call]

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return value  # NULL, or a damaged value, which `RowCheck` reports
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
        }
    )


_LIVE, _DELETED = "deleted_at IS NULL", "deleted_at IS NOT NULL"


def _index_where(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class ConversationRow(Base):
    """A conversation: where its head is, and which turn holds it."""

    __tablename__ = "convstore_conversations"
    __table_args__ = (
        _index_where(
            "convstore_conversations_owner_name_key",
            "owner",
            "name",
            where=f"name IS NOT NULL AND {_LIVE}",
            unique=True,
        ),
        # Deleted conversations stay, and there may be many more of them than of others.
        _index_where("convstore_conversations_live_updated_at_idx", "owner", "updated_at", "id", where=_LIVE),
        _index_where("convstore_conversations_deleted_updated_at_idx", "owner", "updated_at", "id", where=_DELETED),
        _index_where("convstore_conversations_live_id_idx", "owner", "id", where=_LIVE),
    )

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    name: Mapped[str | None] = mapped_column(Key)
    title: Mapped[str | None] = mapped_column(Text)
    settings: Mapped[str] = mapped_column(Text)  # JSON; TEXT, because JSONB reorders keys and refuses \u0000
    metadata_: Mapped[str] = mapped_column("metadata", Text)  # JSON
    head_seq: Mapped[int] = mapped_column(BigInteger)  # 0: no message yet
    length: Mapped[int] = mapped_column(BigInteger)  # the head's position, so that `list` needs no join
    next_seq: Mapped[int] = mapped_column(BigInteger)
    next_turn: Mapped[int] = mapped_column(BigInteger)
    running_turn: Mapped[int | None] = mapped_column(BigInteger)
    lease_token: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_ms: Mapped[int | None] = mapped_column(BigInteger)  # how long the lease lasts if it is not renewed
    creation_digest: Mapped[bytes | None] = mapped_column(LargeBinary)  # of the values at its creation
    # Where a fork's shared past is kept: JSON [[conversation, up to seq, up to turn], …], nearest first.
    lineage: Mapped[str | None] = mapped_column(Text)
    inherited_model: Mapped[str | None] = mapped_column(Text)  # a fork's, until it has sent a request of its own
    window: Mapped[str | None] = mapped_column(Text)  # JSON: the sticky window options
    pins: Mapped[str | None] = mapped_column(Text)  # JSON [[seq, position], …]
    redo: Mapped[str | None] = mapped_column(Text)  # JSON: the heads that `undo` left, latest last
    summary_turn: Mapped[int | None] = mapped_column(BigInteger)  # the turn that wrote the latest summary
    compacting_until: Mapped[datetime | None] = mapped_column(UtcDateTime)  # end of a claim of automatic compaction
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class MessageRow(Base):
    """A message.

    Its row never changes. Messages are ordered by `seq`, never by a clock.
    """

    __tablename__ = "convstore_messages"
    # No ON DELETE CASCADE: Alembic's batch rebuild of the parent table would empty this one.
    __table_args__ = (
        ForeignKeyConstraint(
            ["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]
        ),
    )

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[str] = mapped_column(Key, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    parent_seq: Mapped[int] = mapped_column(BigInteger)  # 0: the message is the first of its path
    position: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(Text)  # '': the role is in `extra`, because no database can hold it as text
    name: Mapped[str | None] = mapped_column(Text)
    content: Mapped[str | None] = mapped_column(Text)
    extra: Mapped[str | None] = mapped_column(Text)  # JSON; overrides role, name and content
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    context_seq: Mapped[int] = mapped_column(BigInteger)  # nearest system or developer message before it; 0: none
    turn_seq: Mapped[int | None] = mapped_column(BigInteger)
    # The ancestor at the last earlier position that 32 (1,024, 32,768) divides; with it any other ancestor is found in
    # a few steps. NULL: there is no such ancestor, or an earlier release wrote the row. Then parents are followed.
    back_32: Mapped[int | None] = mapped_column(BigInteger)
    back_1024: Mapped[int | None] = mapped_column(BigInteger)
    back_32768: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TurnRow(Base):
    """A turn: the request to the model, and how it ended."""

    __tablename__ = "convstore_turns"
    __table_args__ = (
        ForeignKeyConstraint(
            ["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]
        ),
        # A key is used up while its turn runs and after the turn completed. If the turn fails, the key is free again.
        _index_where(
            "convstore_turns_owner_conversation_id_idempotency_key_key",
            "owner",
            "conversation_id",
            "idempotency_key",
            where="idempotency_key IS NOT NULL AND status IN ('running', 'completed')",
            unique=True,
        ),
        Index("convstore_turns_owner_started_at_idx", "owner", "started_at"),
    )

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[str] = mapped_column(Key, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(Key)
    input_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    base_seq: Mapped[int] = mapped_column(BigInteger)
    first_input_seq: Mapped[int | None] = mapped_column(BigInteger)
    last_input_seq: Mapped[int | None] = mapped_column(BigInteger)
    output_seq: Mapped[int | None] = mapped_column(BigInteger)
    purpose: Mapped[str | None] = mapped_column(Text)  # NULL: a reply; else 'summary'
    request: Mapped[str] = mapped_column(Text)  # JSON: the parameters that were sent
    requested_model: Mapped[str | None] = mapped_column(Text)  # the model in `request`
    estimated_tokens: Mapped[int | None] = mapped_column(BigInteger)  # of the whole request, by the store's counter
    window: Mapped[str | None] = mapped_column(Text)  # JSON: which messages were sent
    response_id: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    system_fingerprint: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(Text)
    prompt_tokens: Mapped[int | None] = mapped_column(BigInteger)
    completion_tokens: Mapped[int | None] = mapped_column(BigInteger)
    total_tokens: Mapped[int | None] = mapped_column(BigInteger)
    cached_tokens: Mapped[int | None] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int | None] = mapped_column(BigInteger)
    usage: Mapped[str | None] = mapped_column(Text)  # JSON: the provider's whole report, unchanged
    cost: Mapped[float | None] = mapped_column(Numeric(18, 9, asdecimal=False))
    latency_ms: Mapped[int | None] = mapped_column(BigInteger)
    first_token_ms: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)  # JSON
    attempts: Mapped[str | None] = mapped_column(Text)  # JSON: the calls before the last, and why they were repeated
    stop_requested_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    response_fields: Mapped[str | None] = mapped_column(Text)  # JSON: the other fields of the answer
    notes: Mapped[str | None] = mapped_column(Text)  # JSON: texts, each about an odd thing in the reply


class DeltaRow(Base):
    """A piece of a reply that is still streaming.

    The rows exist only while the turn runs. They limit what a crash loses to about half a second of the reply. A row is
    added for each piece, because a single growing row would be written again with every piece.
    """

    __tablename__ = "convstore_deltas"
    __table_args__ = (
        ForeignKeyConstraint(
            ["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]
        ),
    )

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[str] = mapped_column(Key, primary_key=True)
    turn_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # 1, 2, 3 …
    delta: Mapped[str] = mapped_column(Text)  # JSON: a chunk, as `ChunkAccumulator.add` takes it


class SummaryRow(Base):
    """A summary: a text that is sent instead of the first messages of a path."""

    __tablename__ = "convstore_summaries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]
        ),
    )

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[str] = mapped_column(Key, primary_key=True)
    turn_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # the turn that wrote it
    up_to_seq: Mapped[int] = mapped_column(BigInteger)
    up_to_position: Mapped[int] = mapped_column(BigInteger)
    previous_turn: Mapped[int | None] = mapped_column(BigInteger)  # the turn of the summary that it replaced
    text: Mapped[str] = mapped_column(Text)
    tokens: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AttachmentRow(Base):
    """The bytes of an image, a sound or a file, stored once for each owner."""

    __tablename__ = "convstore_attachments"

    owner: Mapped[str] = mapped_column(Key, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CompatibilityRow(Base):
    """The only row: the oldest schema that a release must know to use the database."""

    __tablename__ = "convstore_compatibility"

    minimum_version: Mapped[str] = mapped_column(Text, primary_key=True)


conversations = Base.metadata.tables["convstore_conversations"]
messages = Base.metadata.tables["convstore_messages"]
turns = Base.metadata.tables["convstore_turns"]
deltas = Base.metadata.tables["convstore_deltas"]
summaries = Base.metadata.tables["convstore_summaries"]
attachments = Base.metadata.tables["convstore_attachments"]
compatibility = Base.metadata.tables["convstore_compatibility"]
