"""Declarative models and the partial indexes of the tables, for Alembic and for an application's own queries.

The rest of convstore uses neither. So it starts without `sqlalchemy.orm`, and on SQLite without the dialect of
PostgreSQL, which SQLAlchemy imports for the condition of an index. Models are for reading: only the store numbers rows
and computes digests.

>>> from sqlalchemy.orm import Session
>>> from convstore.db.models import TurnRow
>>> with Session(engine) as session:
...     failed = session.scalars(select(TurnRow).where(TurnRow.owner == "ada", TurnRow.status == "failed")).all()
"""

from __future__ import annotations

from sqlalchemy import Column, Index, text
from sqlalchemy.orm import DeclarativeBase

from convstore.db import tables
from convstore.db.tables import conversations, turns


class Base(DeclarativeBase):
    """The base of the models."""

    metadata = tables.metadata


class ConversationRow(Base):
    """A conversation."""

    __table__ = tables.conversations
    __mapper_args__ = {"properties": {"metadata_": tables.conversations.c.metadata}}  # noqa: RUF012 (as SQLAlchemy has it)


class MessageRow(Base):
    """A message."""

    __table__ = tables.messages


class TurnRow(Base):
    """A turn."""

    __table__ = tables.turns


class DeltaRow(Base):
    """A piece of a reply that is still streaming."""

    __table__ = tables.deltas


class SummaryRow(Base):
    """A summary."""

    __table__ = tables.summaries


class AttachmentRow(Base):
    """The bytes of an attachment."""

    __table__ = tables.attachments


class DailyUsageRow(Base):
    """What the turns of a past day used."""

    __table__ = tables.daily_usage


class SearchDocumentRow(Base):
    """A text that a search can find."""

    __table__ = tables.search_documents


class SearchBacklogRow(Base):
    """A conversation that is not whole in the search index yet."""

    __table__ = tables.search_backlog


class TagRow(Base):
    """A tag of a conversation."""

    __table__ = tables.tags


class RatingRow(Base):
    """What a person thinks of a reply."""

    __table__ = tables.ratings


class TombstoneRow(Base):
    """A conversation that was purged or redacted."""

    __table__ = tables.tombstones


class RedactionRow(Base):
    """A message that was redacted."""

    __table__ = tables.redactions


class RetentionRow(Base):
    """How long an owner's conversations are kept."""

    __table__ = tables.retention


class ErasureRow(Base):
    """What is left to do to a SQLite file after something was erased."""

    __table__ = tables.erasures


class ApiKeyRow(Base):
    """A key of the service."""

    __table__ = tables.api_keys


class ClientRequestRow(Base):
    """A request that a client of the service sent with all its messages."""

    __table__ = tables.client_requests


class CompatibilityRow(Base):
    """The oldest schema that a release must know to use the database."""

    __table__ = tables.compatibility


_LIVE, _DELETED = "deleted_at IS NULL", "deleted_at IS NOT NULL"
_LISTED, _ARCHIVED = f"{_LIVE} AND archived_at IS NULL", f"{_LIVE} AND archived_at IS NOT NULL"


def _add(name: str, *columns: Column[object], where: str, unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


_of = conversations.c
_add("convstore_conversations_owner_name_key", _of.owner, _of.name, where=f"name IS NOT NULL AND {_LIVE}", unique=True)
# Deleted and archived conversations stay, and there may be many more of them than of others.
_add("convstore_conversations_listed_updated_at_idx", _of.owner, _of.updated_at, _of.id, where=_LISTED)
_add("convstore_conversations_archived_updated_at_idx", _of.owner, _of.updated_at, _of.id, where=_ARCHIVED)
_add("convstore_conversations_deleted_updated_at_idx", _of.owner, _of.updated_at, _of.id, where=_DELETED)
_add("convstore_conversations_live_id_idx", _of.owner, _of.id, where=_LIVE)
# A key is used up while its turn runs and after the turn completed. If the turn fails, the key is free again.
_add(
    "convstore_turns_owner_conversation_id_idempotency_key_key",
    turns.c.owner,
    turns.c.conversation_id,
    turns.c.idempotency_key,
    where="idempotency_key IS NOT NULL AND status IN ('running', 'completed')",
    unique=True,
)
# To count what runs for an owner: there are few such rows, however many turns the owner has.
_add("convstore_turns_running_idx", turns.c.owner, turns.c.conversation_id, where="status = 'running'")
_documents = tables.search_documents.c
_add("convstore_search_documents_docid_key", _documents.docid, where="docid IS NOT NULL", unique=True)
_add("convstore_conversations_forks_idx", _of.owner, _of.id, where="lineage IS NOT NULL")
# To find out who uses an attachment: the `extra` of a message with attachments is an array, of others an object.
_messages = tables.messages.c
_add(
    "convstore_messages_with_attachments_idx",
    _messages.owner,
    _messages.conversation_id,
    _messages.seq,
    where="substr(extra, 1, 1) = '['",
)
_add(
    "convstore_messages_item_id_idx",
    _messages.owner,
    _messages.conversation_id,
    _messages.item_id,
    where="item_id IS NOT NULL",
)
_requests = tables.client_requests.c
for _column in (_requests.asked_digest, _requests.reply_digest, _requests.tail_digest):
    _name = f"convstore_client_requests_owner_{_column.name}_idx"
    _add(_name, _requests.owner, _column, where=f"{_column.name} IS NOT NULL")
_add(
    "convstore_client_requests_owner_idempotency_digest_key",
    _requests.owner,
    _requests.idempotency_digest,
    where="idempotency_digest IS NOT NULL",
    unique=True,
)
_HAS_REPLY = "response_id IS NOT NULL"
_add("convstore_client_requests_owner_response_id_idx", _requests.owner, _requests.response_id, where=_HAS_REPLY)
_add(
    "convstore_client_requests_completions_idx",
    _requests.owner,
    _requests.created_at,
    _requests.conversation_id,
    _requests.turn_seq,
    where=_HAS_REPLY,
)
_add("convstore_conversations_live_forks_idx", _of.owner, _of.id, where=f"lineage IS NOT NULL AND {_LIVE}")
Index(
    "convstore_search_documents_terms_idx",
    _documents.terms,
    sqlite_where=text("terms IS NOT NULL"),  # no row of SQLite has any
    postgresql_using="gin",
)
