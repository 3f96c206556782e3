"""Write the search index: which terms each message and each title has.

The index only selects the texts that a search looks at. On PostgreSQL a row has the hashes of its terms, in an array
with a GIN index. On SQLite an FTS5 table has the terms, without positions and without the texts; where SQLite has no
FTS5, a plain table has them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import ARRAY, Engine, Integer, Text, bindparam, cast, delete, select, text, update

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore, is_sqlite
from convstore.db.search_backlog import put_off
from convstore.db.tables import EPOCH
from convstore.db.tables import search_documents as table
from convstore.messages.message import Message
from convstore.search.folded_text import fold
from convstore.search.searched_text import extract_searched_text, join_texts
from convstore.search.terms import find_terms
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.results import MessageRecord

LONGEST_INDEXED_AT_ONCE = 100_000
"""The longest text, in characters, that is indexed by the transaction that stores it; longer ones are later."""

TERMS_TABLE = "convstore_search_terms"
"""The FTS5 table, or the plain one, of a SQLite database."""

_MICROSECOND, MICROSECONDS_PER_DAY = timedelta(microseconds=1), 86_400_000_000
DAY_BITS = 32
"""A document's number is its day, and in the lower bits the number of the document in this day."""

DocumentKey: TypeAlias = tuple[int, str, Seq]
"""The time of a message in microseconds since 1970, its conversation and its `seq`; 0 is the conversation's title."""


class IndexKind(Enum):
    """Where a database has its terms."""

    GIN = "gin"
    FTS5 = "fts5"
    TABLE = "table"
    NONE = "none"
    """It has an FTS5 table, and this SQLite cannot read it."""


@dataclass(frozen=True, slots=True)
class IndexedText:
    """A text to be indexed."""

    key: DocumentKey
    terms: frozenset[str]


_IN_DOCUMENT = (
    table.c.owner == bindparam("owner"),
    table.c.created_us == bindparam("created_us"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.seq == bindparam("seq"),
)
_DELETE = delete(table).where(*_IN_DOCUMENT)
_DOCID = select(table.c.docid).where(*_IN_DOCUMENT)
# In an UPDATE, SQLAlchemy keeps the parameter names of the columns.
_SET_TERMS = (
    update(table)
    .where(
        table.c.owner == bindparam("key_owner"),
        table.c.created_us == bindparam("key_us"),
        table.c.conversation_id == bindparam("key_id"),
        table.c.seq == bindparam("key_seq"),
    )
    .values(terms=bindparam("new_terms"))
)
# Only on SQLite, where one transaction at a time writes: the number after the last one of the day. A text is late if
# its number is greater than that of a text that is after it in time. No `created_us >= …`: SQLite would take it for the
# beginning of its search, and read all texts of the same time before this one.
_INSERT_NUMBERED = text(f"""
    INSERT INTO {table.name} (owner, created_us, conversation_id, seq, docid, late)
    VALUES (:owner, :created_us, :conversation_id, :seq,
            (SELECT coalesce(max(docid), :day_begin) + 1 FROM {table.name}
             WHERE docid >= :day_begin AND docid < :day_end),
            (SELECT 1 FROM {table.name}
             WHERE owner = :owner AND created_us < :next_day
               AND (created_us, conversation_id, seq) > (:created_us, :conversation_id, :seq) LIMIT 1))
""")  # noqa: S608 (constants)
_DOCID_SQL = f"""
    (SELECT docid FROM {table.name} WHERE owner = :owner AND created_us = :created_us
     AND conversation_id = :conversation_id AND seq = :seq)
"""  # noqa: S608 (constants)
_INSERT_FTS = text(f"INSERT INTO {TERMS_TABLE} (rowid, terms) VALUES ({_DOCID_SQL}, :terms)")  # noqa: S608
_DELETE_FTS = text(
    f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}, rowid, terms) VALUES ('delete', :docid, :terms)"  # noqa: S608
)
_INSERT_TERM = text(f"INSERT INTO {TERMS_TABLE} (term, docid) VALUES (:term, {_DOCID_SQL})")  # noqa: S608
_DELETE_TERM = text(f"DELETE FROM {TERMS_TABLE} WHERE term = :term AND docid = :docid")  # noqa: S608


@cache
def _insert_hashes_statement(count: int) -> Any:
    """Return the statement that adds documents on PostgreSQL; others may fill the index too, so some may be there.

    The hashes come as PostgreSQL's text of an array, which is far quicker to write than psycopg's form of a list.
    """
    rows = [
        {
            "owner": bindparam("owner"),
            **{name: bindparam(f"{name}_{row}") for name in ("created_us", "conversation_id", "seq")},
            "terms": cast(bindparam(f"terms_{row}", type_=Text()), ARRAY(Integer)),
        }
        for row in range(count)
    ]
    return insert_or_ignore(table, "postgresql").values(rows)


_ROWS_AT_ONCE = (64, 16, 4, 3, 2, 1)
"""How many documents one statement adds on PostgreSQL: few different numbers, as each has a statement of its own."""

_kinds: WeakKeyDictionary[Engine, IndexKind] = WeakKeyDictionary()


def find_kind(connection: Connection) -> IndexKind:
    """Return where the database has its terms; it is read once for each engine."""
    if not is_sqlite(connection):
        return IndexKind.GIN
    engine = connection.plain.engine
    found = _kinds.get(engine)
    if found is None:
        found = _kinds[engine] = _read_kind(connection)
    return found


def _read_kind(connection: Connection) -> IndexKind:
    """Return where a SQLite database has its terms.

    It asks the driver, as what prepares a connection does: it is no part of a call's work.
    """
    cursor = connection.plain.connection.cursor()
    try:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = ?", (TERMS_TABLE,))
        (sql,) = cursor.fetchone() or ("",)
        if "VIRTUAL" not in sql.upper():
            return IndexKind.TABLE
        cursor.execute(f"SELECT rowid FROM {TERMS_TABLE} LIMIT 0")  # noqa: S608 (a constant)
    except connection.dialect.loaded_dbapi.OperationalError:  # no such module: fts5
        return IndexKind.NONE
    finally:
        cursor.close()
    return IndexKind.FTS5


def count_microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (moment - EPOCH) // _MICROSECOND


def make_moment(microseconds: int) -> datetime:
    """Return the time that `count_microseconds` counted."""
    return EPOCH + timedelta(microseconds=microseconds)


def index_messages(connection: Connection, key: ConversationKey, records: Sequence[MessageRecord]) -> None:
    """Add messages that were just inserted to the index; of long ones, note that they must be added later."""
    texts: list[IndexedText] = []
    for record in records:
        searched = extract_searched_text(record.message)
        if len(searched) > LONGEST_INDEXED_AT_ONCE or find_kind(connection) is IndexKind.NONE:
            put_off(connection, key, record.seq)
        else:
            place = count_microseconds(record.created_at), key.id, record.seq
            texts.append(IndexedText(place, frozenset(find_terms(fold(searched)))))
    add_texts(connection, key.owner, texts)


def index_title(connection: Connection, key: ConversationKey, created_at: datetime, *names: str | None) -> None:
    """Add the title and the name of a conversation to the index.

    Args:
        created_at: when the conversation was created.
        names: its title and its name.
    """
    if not any(names):
        return
    if find_kind(connection) is IndexKind.NONE:
        put_off(connection, key, NO_SEQ)
    else:
        document = count_microseconds(created_at), key.id, NO_SEQ
        add_texts(connection, key.owner, [IndexedText(document, find_title_terms(*names))])


def find_title_terms(*names: str | None) -> frozenset[str]:
    """Return the terms of a title and a name."""
    return frozenset(find_terms(fold(join_texts([name for name in names if name]))))


def replace_title(
    connection: Connection,
    key: ConversationKey,
    created_at: datetime,
    before: tuple[str | None, str | None],
    after: tuple[str | None, str | None],
) -> None:
    """Change the title and the name of a conversation in the index."""
    if before == after:
        return
    document = count_microseconds(created_at), key.id, NO_SEQ
    remove_text(connection, key.owner, IndexedText(document, find_title_terms(*before)))
    index_title(connection, key, created_at, *after)


def replace_text(
    connection: Connection, key: ConversationKey, seq: Seq, created_at: datetime, before: Message, after: Message
) -> None:
    """Change the terms of a message that is rewritten; one that is not in the index yet is added as it is then.

    The caller has checked that this SQLite can change the index.
    """
    place = count_microseconds(created_at), key.id, seq
    old, new = (IndexedText(place, frozenset(find_terms(fold(extract_searched_text(one))))) for one in (before, after))
    document, kind = {"owner": key.owner, **_bind_key(place)}, find_kind(connection)
    found = connection.execute(_DOCID, document).one_or_none()
    if found is None:
        return
    if kind is IndexKind.GIN:
        values = {"key_owner": key.owner, "key_us": place[0], "key_id": key.id, "key_seq": seq}
        connection.execute(_SET_TERMS, {**values, "new_terms": hash_terms(key.owner, new)})
        return
    if kind is IndexKind.FTS5:
        words = " ".join(list_stored_terms(key.owner, old))
        connection.execute(_DELETE_FTS, {"docid": found.docid, "terms": words})
        connection.execute(_INSERT_FTS, {**document, "terms": " ".join(list_stored_terms(key.owner, new))})
    else:
        rows = [{"term": term, "docid": found.docid} for term in list_stored_terms(key.owner, old)]
        connection.execute_many(_DELETE_TERM, rows)
        added = [{**document, "term": term} for term in list_stored_terms(key.owner, new)]
        connection.execute_many(_INSERT_TERM, added)


def add_texts(connection: Connection, owner: str, texts: Sequence[IndexedText]) -> int:
    """Add texts to the index, and return how many; on SQLite, none of them may be in it already."""
    if not texts:
        return 0
    kind = find_kind(connection)
    if kind is IndexKind.GIN:
        return _add_hashes(connection, owner, texts)
    documents = [(one, {"owner": owner, **_bind_key(one.key)}) for one in texts]
    connection.execute_many(_INSERT_NUMBERED, [{**document, **_bind_day(one.key[0])} for one, document in documents])
    if kind is IndexKind.FTS5:
        rows = [{**document, "terms": " ".join(list_stored_terms(owner, one))} for one, document in documents]
        connection.execute_many(_INSERT_FTS, rows)
    else:
        rows = [{**document, "term": term} for one, document in documents for term in list_stored_terms(owner, one)]
        connection.execute_many(_INSERT_TERM, rows)
    return len(texts)


def _add_hashes(connection: Connection, owner: str, texts: Sequence[IndexedText]) -> int:
    added, start = 0, 0
    while start < len(texts):
        count = next(count for count in _ROWS_AT_ONCE if count <= len(texts) - start)
        values: dict[str, Any] = {"owner": owner}
        for row, one in enumerate(texts[start : start + count]):
            values |= {f"{name}_{row}": value for name, value in _bind_key(one.key).items()}
            values[f"terms_{row}"] = "{" + ",".join(map(str, hash_terms(owner, one))) + "}"
        added += connection.execute(_insert_hashes_statement(count), values).rowcount
        start += count
    return added


def remove_text(connection: Connection, owner: str, one: IndexedText) -> None:
    """Take a text out of the index, if it is in it.

    Args:
        one: the text, with the terms that it was added with.
    """
    document = {"owner": owner, **_bind_key(one.key)}
    kind = find_kind(connection)
    if kind in (IndexKind.FTS5, IndexKind.TABLE):  # what stays of a text in a table that cannot be read does no harm
        docid = connection.scalar(_DOCID, document)
        if docid is None:
            return
        if kind is IndexKind.FTS5:
            connection.execute(_DELETE_FTS, {"docid": docid, "terms": " ".join(list_stored_terms(owner, one))})
        else:
            rows = [{"term": term, "docid": docid} for term in list_stored_terms(owner, one)]
            connection.execute_many(_DELETE_TERM, rows)
    connection.execute(_DELETE, document)


def _bind_key(key: DocumentKey) -> dict[str, Any]:
    return {"created_us": key[0], "conversation_id": key[1], "seq": key[2]}


def _bind_day(created_us: int) -> dict[str, int]:
    day = created_us // MICROSECONDS_PER_DAY
    return {
        "day_begin": day << DAY_BITS,
        "day_end": (day + 1) << DAY_BITS,
        "next_day": (day + 1) * MICROSECONDS_PER_DAY,
    }


def find_first_docid(created_us: int) -> int:
    """Return the number below the numbers of a day's documents on SQLite.

    A document's number begins with its day, so that the newest are found without the others. The numbers of a day are
    1, 2, 3 …, which keeps the index small.
    """
    return (created_us // MICROSECONDS_PER_DAY) << DAY_BITS


def make_owner_term(owner: str) -> str:
    """Return the term that all texts of an owner have, so that a search reads no others."""
    return f"_o{zlib.crc32(owner.encode()):08x}"


def make_conversation_term(conversation_id: str) -> str:
    """Return the term that all texts of a conversation have."""
    return f"_c{zlib.crc32(conversation_id.encode()):08x}"


def list_stored_terms(owner: str, one: IndexedText) -> list[str]:
    """Return the terms of a text, its owner's and its conversation's, as SQLite has them."""
    return [*sorted(one.terms), make_conversation_term(one.key[1]), make_owner_term(owner)]


def hash_terms(owner: str, one: IndexedText) -> list[int]:
    """Return the hashes that a text has on PostgreSQL: of all these terms, and of the beginnings of its words."""
    found = set(list_stored_terms(owner, one))
    found.update(beginning for term in one.terms if (beginning := make_prefix_term(term)) is not None)
    return sorted(map(hash_term, found))


def make_prefix_term(word: str) -> str | None:
    """Return the term that stands for the beginning of a word; None if the word is too short.

    PostgreSQL has these terms, because its index has hashes, and no order of words. Three letters are enough to find
    `migrat*` among few texts; words of other scripts are often shorter, such as those of Korean.
    """
    length = 3 if word.isascii() else 2
    return f"{word[:length]}_" if len(word) >= length else None


def hash_term(term: str) -> int:
    """Return the hash of a term: a signed number of 32 bits. Two terms may have the same; the text then decides."""
    return zlib.crc32(term.encode()) - 2**31
