"""Find the rows in which a text occurs, in any form in which a column may have it.

Every row of an owner, or of a conversation, is read by the database; the search index has only words, and not of every
column.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Table, Text, bindparam, func, or_, select

from convstore.db.connection import Connection
from convstore.db.tables import client_requests, conversations, deltas, messages, ratings, summaries, tags, turns
from convstore.messages.redacted_message import Secret, spell_text
from convstore.messages.storable_text import is_storable, to_json

_SPELLINGS_AT_ONCE = 20  # each stands once for each column


@dataclass(frozen=True, slots=True)
class SearchedColumns:
    """The columns of a table that may hold a text of a message."""

    table: Table
    number: str
    """The column of the key after the owner and the conversation; "": the key has no more columns."""
    names: tuple[str, ...]

    @property
    def conversation(self) -> ColumnElement[str]:
        """The column with the id of the conversation."""
        return self.table.c["id" if self.table is conversations else "conversation_id"]

    @property
    def columns(self) -> list[ColumnElement[Any]]:
        """The id of the conversation as `conversation_id`, the number as `number`, and the searched columns."""
        numbers = [self.table.c[self.number].label("number")] if self.number else []
        return [self.conversation.label("conversation_id"), *numbers, *(self.table.c[name] for name in self.names)]


MESSAGES = SearchedColumns(messages, "seq", ("content", "extra"))
DELTAS = SearchedColumns(deltas, "number", ("delta",))
TURNS = SearchedColumns(
    turns,
    "seq",
    (
        "request",
        "window",
        "usage",
        "error",
        "attempts",
        "response_fields",
        "notes",
        "idempotency_key",
        "requested_model",
    ),
)
SUMMARIES = SearchedColumns(summaries, "turn_seq", ("text",))
RATINGS = SearchedColumns(ratings, "seq", ("note",))
TAGS = SearchedColumns(tags, "", ("tag",))
REQUESTS = SearchedColumns(client_requests, "turn_seq", ("metadata",))
CONVERSATIONS = SearchedColumns(conversations, "", ("name", "title", "made_title", "settings", "metadata"))
SEARCHED = {
    place.table.name: place for place in (MESSAGES, DELTAS, TURNS, SUMMARIES, RATINGS, TAGS, REQUESTS, CONVERSATIONS)
}


@cache
def _occurrences_statement(dialect: str, searched: str, count: int, *, of_conversation: bool) -> Any:
    """Return the statement that finds rows with one of some texts.

    Args:
        searched: the name of the table.
        count: the number of texts.
    """
    place = SEARCHED[searched]
    texts = [bindparam(f"text_{number}", type_=Text()) for number in range(count)]
    find: Any = func.instr if dialect == "sqlite" else func.strpos
    has = or_(*(find(place.table.c[name], text) > 0 for name in place.names for text in texts))
    chosen = (place.conversation == bindparam("conversation_id"),) if of_conversation else ()
    keys = place.columns[: -len(place.names)]
    columns = keys if place is MESSAGES else place.columns
    return select(*columns).where(place.table.c.owner == bindparam("owner"), *chosen, has).order_by(*keys)


def list_spellings(secret: Secret) -> list[str]:
    """Return what a column may hold if the secret occurs in it; [] if it is not looked for."""
    found: set[str] = set()
    for text in secret.texts:
        for spelling in spell_text(text):
            found |= {spelling, to_json(spelling)[1:-1], json.dumps(spelling)[1:-1]}
    found |= {digest.hex() for digest in secret.files}
    found |= set(secret.small_files)
    return sorted(spelling for spelling in found if is_storable(spelling))


def find_rows(
    connection: Connection, place: SearchedColumns, owner: str, spellings: Sequence[str], conversation_id: str | None
) -> Iterator[Any]:
    """Yield the rows of a table in which a text occurs; of messages, only their keys.

    A row may come twice, and some only seem to hold the text.

    Args:
        conversation_id: the conversation to look at; None: all of the owner.
    """
    chosen = {"conversation_id": conversation_id} if conversation_id is not None else {}
    for start in range(0, len(spellings), _SPELLINGS_AT_ONCE):
        some = spellings[start : start + _SPELLINGS_AT_ONCE]
        statement = _occurrences_statement(
            connection.dialect.name, place.table.name, len(some), of_conversation=conversation_id is not None
        )
        texts = {f"text_{number}": text for number, text in enumerate(some)}
        yield from connection.execute(statement, {"owner": owner, **chosen, **texts})


def find_rows_of(
    connection: Connection,
    place: SearchedColumns,
    owner: str,
    spellings: Sequence[str],
    conversation_ids: Collection[str] | None,
) -> list[Any]:
    """Return the rows of a table in which a text occurs, each once.

    Args:
        conversation_ids: the conversations to look at; None: all of the owner.
    """
    found: dict[tuple[Any, ...], Any] = {}
    for id in conversation_ids if conversation_ids is not None else (None,):
        for row in find_rows(connection, place, owner, spellings, id):
            found[tuple(row[: len(place.columns) - len(place.names)])] = row
    return list(found.values())
