"""Take the words of a conversation out of the search index, for good.

On SQLite the index has words, and FTS5 removes those of a text only if it is told them. So they are found again in the
texts. If one of these is damaged, the index is emptied, and filled again from what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, text

from convstore.db.connection import Connection
from convstore.db.erased_rows import ErasableRow
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.search_gaps import read_unindexed
from convstore.db.search_index import (
    TERMS_TABLE,
    DocumentKey,
    IndexedText,
    IndexKind,
    count_microseconds,
    find_kind,
    find_title_terms,
    list_stored_terms,
)
from convstore.db.tables import conversations, search_backlog
from convstore.db.tables import search_documents as table
from convstore.errors import DatabaseUnavailable
from convstore.messages.storable_text import from_column
from convstore.search.folded_text import fold
from convstore.search.searched_text import extract_searched_text
from convstore.search.terms import find_terms
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq

_KEYS_AT_ONCE = 200
_IS_THIS = (
    table.c.owner == bindparam("owner"),
    table.c.created_us == bindparam("created_us"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.seq == bindparam("seq"),
)
_DOCID = select(table.c.docid).where(*_IS_THIS)  # one by one: SQLite reads the whole table for a list of keys
_DELETE = delete(table).where(*_IS_THIS)
_DELETE_ALL = delete(table).where(
    table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id")
)
_DELETE_FTS = text(
    f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}, rowid, terms) VALUES ('delete', :docid, :terms)"  # noqa: S608
)
_DELETE_TERMS = text(f"DELETE FROM {TERMS_TABLE} WHERE docid = :docid")  # noqa: S608
_EMPTY = {
    IndexKind.FTS5: text(f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}) VALUES ('delete-all')"),  # noqa: S608
    IndexKind.TABLE: text(f"DELETE FROM {TERMS_TABLE}"),  # noqa: S608
}
_FORGET_DOCUMENTS = text(f"DELETE FROM {table.name}")  # noqa: S608
_PUT_OFF_EVERYTHING = text(
    f"INSERT INTO {search_backlog.name} (owner, conversation_id, from_seq)"  # noqa: S608
    f" SELECT owner, id, 0 FROM {conversations.name} WHERE true"
    " ON CONFLICT (owner, conversation_id) DO UPDATE SET from_seq = 0"
)


def check_erasable(connection: Connection) -> None:
    """Check that words can be taken out of the index.

    Raises:
        DatabaseUnavailable: this SQLite cannot write it.
    """
    if find_kind(connection) is IndexKind.NONE:
        raise DatabaseUnavailable(
            "this Python's SQLite has no FTS5, so the words cannot be removed from the search index: use another Python"
        )


def remove_terms(connection: Connection, key: ConversationKey, row: ErasableRow) -> None:
    """Take the messages, the title and the name of a conversation out of the index."""
    kind = find_kind(connection)
    if kind is not IndexKind.GIN:
        _remove_words(connection, key, row, kind)
    left = connection.execute(_DELETE_ALL, {"owner": key.owner, "conversation_id": key.id}).rowcount
    if left and kind is not IndexKind.GIN:  # their texts are damaged, so that nobody knows their words
        connection.execute(_EMPTY[kind])
        connection.execute(_FORGET_DOCUMENTS)
        connection.execute(_PUT_OFF_EVERYTHING)


def _remove_words(connection: Connection, key: ConversationKey, row: ErasableRow, kind: IndexKind) -> None:
    _remove(connection, key.owner, _find_title(key, row), kind)
    next_seq: Seq | None = NO_SEQ
    while next_seq is not None:
        found, next_seq = read_unindexed(connection, key, next_seq)
        texts = [
            IndexedText(document, frozenset(find_terms(fold(extract_searched_text(message)))))
            for document, message in found
        ]
        for start in range(0, len(texts), _KEYS_AT_ONCE):
            _remove(connection, key.owner, texts[start : start + _KEYS_AT_ONCE], kind)


def _find_title(key: ConversationKey, row: ErasableRow) -> list[IndexedText]:
    try:
        document: DocumentKey = count_microseconds(row.created_at), key.id, NO_SEQ
        return [IndexedText(document, find_title_terms(from_column(row.title), row.name))]
    except DECODING_ERRORS:
        return []


def _remove(connection: Connection, owner: str, texts: Sequence[IndexedText], kind: IndexKind) -> None:
    """Remove texts from the documents and from the table of terms; those that are not in it do not matter."""
    found: list[tuple[int | None, IndexedText]] = [
        (row.docid, one) for one in texts for row in connection.execute(_DOCID, _make_values(owner, one))
    ]
    if not found:
        return
    rows: list[dict[str, Any]] = [
        {"docid": docid, "terms": " ".join(list_stored_terms(owner, one))} for docid, one in found if docid is not None
    ]
    if rows and kind is IndexKind.FTS5:
        connection.execute_many(_DELETE_FTS, rows)
    elif rows:
        connection.execute_many(_DELETE_TERMS, [{"docid": one["docid"]} for one in rows])
    connection.execute_many(_DELETE, [_make_values(owner, one) for _, one in found])


def _make_values(owner: str, text: IndexedText) -> dict[str, Any]:
    created_us, conversation_id, seq = text.key
    return {"owner": owner, "created_us": created_us, "conversation_id": conversation_id, "seq": seq}
