"""Compare the search index with the texts: every message and every title has its document, and its terms."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    extract,
    func,
    or_,
    select,
    text,
)

from convstore.db.connection import Connection
from convstore.db.engine import Database
from convstore.db.search_backlog import list_owners
from convstore.db.search_index import (
    TERMS_TABLE,
    IndexedText,
    IndexKind,
    find_kind,
    hash_terms,
    list_stored_terms,
)
from convstore.db.tables import conversations, messages
from convstore.db.tables import search_backlog as backlog
from convstore.db.tables import search_documents as documents
from convstore.db.verification_report import SearchIndexCheck
from convstore.errors import DatabaseUnavailable
from convstore.values.identifiers import ConversationKey

_OWNER: Any = bindparam("owner")
_IS_TITLE = documents.c.seq == 0
_DOCUMENTS = select(
    func.count(case((~_IS_TITLE, 1))).label("messages"), func.count(case((_IS_TITLE, 1))).label("titles")
).where(documents.c.owner == _OWNER)
_DOCUMENT = select(documents.c.docid, documents.c.terms).where(
    documents.c.owner == _OWNER,
    documents.c.created_us == bindparam("created_us"),
    documents.c.conversation_id == bindparam("conversation_id"),
    documents.c.seq == bindparam("seq"),
)
_MATCHES_FTS = text(f"SELECT rowid FROM {TERMS_TABLE} WHERE {TERMS_TABLE} MATCH :terms AND rowid = :docid")  # noqa: S608
_TERMS_OF = text(f"SELECT term FROM {TERMS_TABLE} WHERE docid = :docid")  # noqa: S608
_CHECK_FTS = f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}) VALUES ('integrity-check')"  # noqa: S608


@cache
def _messages_statement(dialect: str, *, of_conversation: bool) -> Any:
    """Return the statement that counts messages, those without a document, and those that nothing waits for."""
    return _count_texts(
        dialect,
        messages.c.conversation_id,
        messages.c.seq,
        messages.c.created_at,
        messages.c.owner == _OWNER,
        *((messages.c.conversation_id == bindparam("conversation_id"),) if of_conversation else ()),
    )


@cache
def _titles_statement(dialect: str, *, of_conversation: bool) -> Any:
    """Return the same for titles and names."""
    return _count_texts(
        dialect,
        conversations.c.id,
        cast(0, BigInteger),
        conversations.c.created_at,
        conversations.c.owner == _OWNER,
        or_(func.coalesce(conversations.c.title, "") != "", func.coalesce(conversations.c.name, "") != ""),
        *((conversations.c.id == bindparam("conversation_id"),) if of_conversation else ()),
    )


def _count_texts(dialect: str, id: Any, seq: Any, created_at: Any, *conditions: ColumnElement[bool]) -> Any:
    source = id.table
    has_document = and_(
        documents.c.owner == _OWNER,
        documents.c.created_us == _count_microseconds(dialect, created_at),
        documents.c.conversation_id == id,
        documents.c.seq == seq,
    )
    is_waiting = and_(backlog.c.owner == _OWNER, backlog.c.conversation_id == id, backlog.c.from_seq <= seq)
    is_absent = documents.c.seq.is_(None)
    return (
        select(
            func.count().label("count"),
            func.count(case((is_absent, 1))).label("absent"),
            func.count(case((and_(is_absent, backlog.c.from_seq.is_(None)), 1))).label("missing"),
        )
        .select_from(source.outerjoin(documents, has_document).outerjoin(backlog, is_waiting))
        .where(*conditions)
    )


def _count_microseconds(dialect: str, moment: Any) -> ColumnElement[int]:
    """Return the expression for a time as microseconds since 1970, as documents have it."""
    if dialect == "postgresql":
        return cast(extract("epoch", moment) * 1_000_000, BigInteger)
    stored = cast(moment, Text())
    seconds = cast(func.strftime("%s", func.substr(stored, 1, 19)), Integer)
    return seconds * 1_000_000 + cast(func.substr(stored, 21, 6), Integer)


def check_documents(database: Database, key: ConversationKey | None, found: SearchIndexCheck) -> None:
    """Count the texts without a document, and the documents without a text.

    Args:
        key: the conversation to look at; None: all conversations of all owners.
        found: receives the numbers.
    """
    with database.read(keeps_bytes=True) as connection:
        owners = list_owners(connection, waiting=False) if key is None else [key.owner]
    for owner in owners:
        with database.read(keeps_bytes=True) as connection:
            _check_owner(connection, owner, key, found)
    if key is None and database.is_sqlite:
        _check_fts(database, found)


def _check_owner(connection: Connection, owner: str, key: ConversationKey | None, found: SearchIndexCheck) -> None:
    dialect, of_conversation = connection.dialect.name, key is not None
    values = {"owner": owner, **({"conversation_id": key.id} if key is not None else {})}
    of_messages = connection.execute(_messages_statement(dialect, of_conversation=of_conversation), values).one()
    of_titles = connection.execute(_titles_statement(dialect, of_conversation=of_conversation), values).one()
    found.waiting += of_messages.absent - of_messages.missing
    found.missing += of_messages.missing + of_titles.missing
    if key is None:  # the documents of one conversation are not found without the others of its owner
        stored = connection.execute(_DOCUMENTS, {"owner": owner}).one()
        found.without_text += stored.messages - (of_messages.count - of_messages.absent)
        found.without_text += stored.titles - (of_titles.count - of_titles.absent)


def _check_fts(database: Database, found: SearchIndexCheck) -> None:
    """Let SQLite check the structure of its full-text table; a newer one has just done it, with the whole file."""
    if sqlite3.sqlite_version_info >= (3, 44):
        return
    with database.read() as connection:
        if find_kind(connection) is not IndexKind.FTS5:
            return
    try:
        with database.write() as connection:
            connection.run(_CHECK_FTS)
    except DatabaseUnavailable as error:
        if "malformed" in str(error):
            found.problem = "SQLite's full-text table is damaged"


def has_terms(connection: Connection, owner: str, one: IndexedText) -> bool | None:
    """Return True if the index has all terms of a text, None if it does not have the text or cannot be read."""
    kind, (created_us, conversation_id, seq) = find_kind(connection), one.key
    values = {"owner": owner, "created_us": created_us, "conversation_id": conversation_id, "seq": seq}
    row = connection.execute(_DOCUMENT, values).one_or_none() if kind is not IndexKind.NONE else None
    if row is None:
        return None
    if kind is IndexKind.GIN:
        return set(row.terms or ()) >= set(hash_terms(owner, one))
    terms = list_stored_terms(owner, one)
    if kind is IndexKind.TABLE:
        return {term for (term,) in connection.execute(_TERMS_OF, {"docid": row.docid})} >= set(terms)
    quoted = " ".join(f'"{term}"' for term in terms)
    return connection.scalar(_MATCHES_FTS, {"terms": quoted, "docid": row.docid}) is not None
