"""Define the tables. Alembic's migrations create them, and a test compares both.

Declarative models of them, and their partial indexes, are in `models`, which takes long to import.

Every name begins with `convstore_`, because an application may share its database with convstore, and most have a table
called `messages`. Every key begins with the owner, so that the key of one owner cannot reach the rows of another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

VERSION_TABLE = "convstore_version"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Ids, names and keys are compared byte by byte, so that both databases sort them and match prefixes in the same way.
Key = Text().with_variant(Text(collation="C"), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC.

    SQLite stores it as text without a time zone, in the form of SQLAlchemy's own type. PostgreSQL stores a
    `timestamptz`, which is converted to UTC when it is read.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _write_sqlite_time if dialect.name == "sqlite" else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        return _read_sqlite_time if dialect.name == "sqlite" else _convert_to_utc


@lru_cache(maxsize=64)  # all rows of a transaction have the same time
def _write_sqlite_time(value: datetime | None) -> str | None:
    return value.astimezone(UTC).isoformat(" ", "microseconds")[:26] if value is not None else None


def _read_sqlite_time(value: Any) -> Any:
    """Return a time; a text that is none as it is, so that an error can name its row."""
    try:
        return datetime.fromisoformat(value + "+00:00")
    except (ValueError, TypeError):  # NULL too
        return value


def _convert_to_utc(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value is not None else None


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)
"""All tables."""

conversations = Table(
    "convstore_conversations",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("id", Key, primary_key=True),
    Column("name", Key),
    Column("title", Text),
    Column("settings", Text, nullable=False),  # JSON; TEXT, because JSONB reorders keys and refuses \u0000
    Column("metadata", Text, nullable=False),  # JSON
    Column("head_seq", BigInteger, nullable=False),  # 0: no message yet
    Column("length", BigInteger, nullable=False),  # the head's position, so that `list` needs no join
    Column("next_seq", BigInteger, nullable=False),
    Column("next_turn", BigInteger, nullable=False),
    Column("running_turn", BigInteger),
    Column("lease_token", Text),
    Column("lease_expires_at", UtcDateTime),
    Column("lease_ms", BigInteger),  # how long the lease lasts if it is not renewed
    Column("creation_digest", LargeBinary),  # of the values at its creation
    # Where a fork's shared past is kept: JSON [[conversation, up to seq, up to turn], …], nearest first. With more than
    # 31 origins, only some are named, each with its depth as a fourth number: see `fork_sharing`.
    Column("lineage", Text),
    Column("inherited_model", Text),  # a fork's, until it has sent a request of its own
    Column("window", Text),  # JSON: the sticky window options
    Column("pins", Text),  # JSON [[seq, position], …]
    Column("redo", Text),  # JSON: the heads that `undo` left, latest last
    Column("summary_turn", BigInteger),  # the turn that wrote the latest summary
    Column("compacting_until", UtcDateTime),  # end of a claim of automatic compaction
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Column("archived_at", UtcDateTime),
    Column("made_title", Text),  # the beginning of the first message of a user
)
"""A conversation: where its head is, and which turn holds it."""

messages = Table(
    "convstore_messages",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("parent_seq", BigInteger, nullable=False),  # 0: the message is the first of its path
    Column("position", BigInteger, nullable=False),
    Column("role", Text, nullable=False),  # '': the role is in `extra`, because no database can hold it as text
    Column("name", Text),
    Column("content", Text),
    Column("extra", Text),  # JSON; overrides role, name and content
    Column("tokens", BigInteger),
    Column("context_seq", BigInteger, nullable=False),  # nearest system or developer message before it; 0: none
    Column("turn_seq", BigInteger),
    # The ancestor at the last earlier position that 32 (1,024, 32,768) divides; with it any other ancestor is found in
    # a few steps. NULL: there is no such ancestor, or an earlier release wrote the row. Then parents are followed.
    Column("back_32", BigInteger),
    Column("back_1024", BigInteger),
    Column("back_32768", BigInteger),
    Column("item_id", Key),  # by which it is found as an item of a conversation; NULL: it came in as a chat message
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # No ON DELETE CASCADE: Alembic's batch rebuild of the parent table would empty this one.
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A message.

Its row changes only if it is redacted; then the digests of all that follow it change too. Messages are ordered by
`seq`, never by a clock.
"""

turns = Table(
    "convstore_turns",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    Column("idempotency_key", Key),
    Column("input_digest", LargeBinary),
    Column("base_seq", BigInteger, nullable=False),
    Column("first_input_seq", BigInteger),
    Column("last_input_seq", BigInteger),
    Column("output_seq", BigInteger),
    Column("purpose", Text),  # NULL: a reply; else 'summary'
    Column("request", Text, nullable=False),  # JSON: the parameters that were sent
    Column("requested_model", Text),  # the model in `request`
    Column("estimated_tokens", BigInteger),  # of the whole request, by the store's counter
    Column("window", Text),  # JSON: which messages were sent
    Column("response_id", Text),
    Column("model", Text),
    Column("system_fingerprint", Text),
    Column("finish_reason", Text),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("usage", Text),  # JSON: the provider's whole report, unchanged
    Column("cost", Numeric(18, 9, asdecimal=False)),
    Column("latency_ms", BigInteger),
    Column("first_token_ms", BigInteger),
    Column("error", Text),  # JSON
    Column("attempts", Text),  # JSON: the calls before the last, and why they were repeated
    Column("stop_requested_at", UtcDateTime),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("response_fields", Text),  # JSON: the other fields of the answer
    Column("notes", Text),  # JSON: texts, each about an odd thing in the reply
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
    Index("convstore_turns_owner_started_at_idx", "owner", "started_at"),
)
"""A turn: the request to the model, and how it ended."""

deltas = Table(
    "convstore_deltas",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("turn_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3 …
    Column("delta", Text, nullable=False),  # JSON: a chunk, as `ChunkAccumulator.add` takes it
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A piece of a reply that is still streaming.

The rows exist only while the turn runs. They limit what a crash loses to about half a second of the reply. A row is
added for each piece, because a single growing row would be written again with every piece.
"""

summaries = Table(
    "convstore_summaries",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("turn_seq", BigInteger, primary_key=True, autoincrement=False),  # the turn that wrote it
    Column("up_to_seq", BigInteger, nullable=False),
    Column("up_to_position", BigInteger, nullable=False),
    Column("previous_turn", BigInteger),  # the turn of the summary that it replaced
    Column("text", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A summary: a text that is sent instead of the first messages of a path."""

attachments = Table(
    "convstore_attachments",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""The bytes of an image, a sound or a file, stored once for each owner."""

daily_usage = Table(
    "convstore_daily_usage",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("day", Key, primary_key=True),  # UTC, such as 2026-11-22
    Column("turns", BigInteger, nullable=False),  # of the day, when the sums were made, also those that do not count
    Column("sums", Text),  # JSON: a list of the sums of each model; NULL: they must be made again
)
"""What the turns of a past day used, so that a report of many days need not read their turns."""

search_documents = Table(
    "convstore_search_documents",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("created_us", BigInteger, primary_key=True, autoincrement=False),  # microseconds since 1970, UTC
    Column("conversation_id", Key, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # of a message; 0: the title and the name
    Column("docid", BigInteger),  # SQLite: its number in the table of terms
    Column("late", BigInteger),  # SQLite: 1 if the owner has a later text of that day with a smaller number; else NULL
    # PostgreSQL: the hashes of its terms.
    Column("terms", Text().with_variant(ARRAY(Integer), "postgresql")),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A text that a search can find: a message, or the title and the name of a conversation."""

search_backlog = Table(
    "convstore_search_backlog",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("from_seq", BigInteger, nullable=False),  # 0: the title too
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A conversation with messages that may not be in the search index yet."""

tags = Table(
    "convstore_tags",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("tag", Key, primary_key=True),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
    Index("convstore_tags_owner_tag_conversation_id_idx", "owner", "tag", "conversation_id"),
)
"""A tag of a conversation."""

ratings = Table(
    "convstore_ratings",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("rating", Text, nullable=False),  # good or bad
    Column("note", Text),
    Column("rated_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""What a person thinks of a reply."""

tombstones = Table(
    "convstore_tombstones",
    metadata,
    Column("owner", Key, primary_key=True),
    # An imported conversation's id is made of the kind and the id of its source. The latter is not kept: some programs
    # use a person's words for it.
    Column("conversation_id", Key, primary_key=True),
    Column("reason", Text, nullable=False),  # purged or redacted
    Column("source_kind", Text),  # such as chatgpt; NULL: it was not imported
    Column("erased_at", UtcDateTime, nullable=False),
)
"""A conversation that was purged or redacted: no import stores its text again."""

redactions = Table(
    "convstore_redactions",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("extent", Text, nullable=False),  # message or part
    Column("redacted_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A message that was redacted: its text, or a part of it, was removed for good."""

retention = Table(
    "convstore_retention",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("covers", Key, primary_key=True),  # all or deleted: which conversations of the owner
    Column("keep_seconds", BigInteger, nullable=False),  # after their last change, or after they were deleted
    Column("set_at", UtcDateTime, nullable=False),
)
"""How long an owner's conversations are kept, until `retention run` purges them."""

erasures = Table(
    "convstore_erasures",
    metadata,
    Column("step", Text, primary_key=True),  # index, rewrite or log
    Column("since", UtcDateTime, nullable=False),
)
"""What is left to do to a SQLite file until nothing of what was erased can be found in it. Not used on PostgreSQL."""

api_keys = Table(
    "convstore_api_keys",
    metadata,
    # A key is looked up before its owner is known: on Citus, this is a reference table, which every server has whole.
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of the key, which is not stored
    Column("id", Key, nullable=False),
    Column("owner", Key, nullable=False),
    Column("name", Text),
    Column("rights", Text, nullable=False),  # such as 'read write', in the order of `Right`
    Column("acts_for", Key),  # prefix of the owners that it may act for; '': all; NULL: it has no such right
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),  # written at most once a minute
    Column("max_turns", BigInteger),  # of an owner at one time; 0: any number; NULL: as the service says
    Column("max_tokens_a_day", BigInteger),  # of an owner; 0: any number; NULL: as the service says
    Index("convstore_api_keys_id_key", "id", unique=True),
    Index("convstore_api_keys_owner_created_at_idx", "owner", "created_at"),
)
"""A key of the service (`convstore serve`)."""

client_requests = Table(
    "convstore_client_requests",
    metadata,
    Column("owner", Key, primary_key=True),
    Column("conversation_id", Key, primary_key=True),
    Column("turn_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("sender", LargeBinary, nullable=False),  # digest of the key and the user: who may go on from it
    Column("asked_seq", BigInteger, nullable=False),  # the message that the reply follows
    Column("asked_digest", LargeBinary),  # of the matching forms of all messages that were asked
    Column("context_digest", LargeBinary),  # of the system and developer messages that the list began with
    Column("reply_seq", BigInteger),
    Column("reply_digest", LargeBinary),  # of the same messages and the reply
    Column("tail_digest", LargeBinary),  # of the last two exchanges, with the reply
    Column("body_digest", LargeBinary),  # of the key, the path and the body: the client may repeat it
    Column("idempotency_digest", LargeBinary),  # of the key and the `Idempotency-Key`
    Column("taken_at", UtcDateTime),  # when a repetition got its reply
    Column("response_id", Key),  # the id of the completion, as the client got it
    Column("metadata", Text),  # JSON: what the client says about the completion; NULL: nothing
    Column("hidden_at", UtcDateTime),  # when the client deleted the completion
    Column("created_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["owner", "conversation_id"], ["convstore_conversations.owner", "convstore_conversations.id"]),
)
"""A request that a client of the service sent with all its messages: how the next one finds its conversation."""

compatibility = Table(
    "convstore_compatibility",
    metadata,
    Column("minimum_version", Text, primary_key=True),
)
"""The only row: the oldest schema that a release must know to use the database."""
