"""Read what is here of a conversation that an export has too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.types import BigInteger

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT
from convstore.db.drawer_rows import read_tags
from convstore.db.exported_lines import EXPORTED_ERROR
from convstore.db.fork_sharing import Lineage, list_origins, read_lineage
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import conversations, messages, turns
from convstore.values.identifiers import ConversationKey

_STORED = select(conversations).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_LINEAGE = select(conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_DIGESTS = select(messages.c.seq, messages.c.digest).where(
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("id"),
    messages.c.seq <= bindparam("up_to", type_=BigInteger),
)
_TURNS = select(turns.c.seq, turns.c.started_at, turns.c.error).where(
    turns.c.owner == bindparam("owner"),
    turns.c.conversation_id == bindparam("id"),
    turns.c.seq <= bindparam("up_to", type_=BigInteger),
)


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """What tells whether a turn is the one of an export."""

    started_at: datetime
    is_exported_running: bool
    """Whether it was still running when the export was written that it came from."""


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation, and the numbers of all that it has, in its own rows and in the past that it shares."""

    row: Any
    lineage: Lineage
    digests: dict[int, bytes]
    """The digests of its messages, by `seq`."""
    turns: dict[int, StoredTurn]
    shared_seq: int
    """Messages to this one are of its origins; 0: none is."""
    shared_turn: int
    tags: frozenset[str]


def read_stored(connection: Connection, key: ConversationKey) -> StoredConversation | None:
    """Return what is here of a conversation, also if it is deleted; None: there is no such conversation."""
    row = connection.execute(_STORED, {"owner": key.owner, "id": key.id}).one_or_none()
    if row is None:
        return None
    lineage = read_lineage(key, row.lineage)
    origins = list(list_origins(connection, lineage)) if lineage.is_fork else []
    digests: dict[int, bytes] = {}
    found: dict[int, StoredTurn] = {}
    # From the farthest origin to the conversation itself: of a number that several have, the nearest row counts.
    homes = [(origin.conversation_id, origin.up_to_seq, origin.up_to_turn) for origin in reversed(origins)]
    after_seq = after_turn = 0
    for id, up_to_seq, up_to_turn in (*homes, (key.id, NO_LIMIT, NO_LIMIT)):
        place = {"owner": key.owner, "id": id}
        for message in connection.execute(_DIGESTS, {**place, "up_to": up_to_seq}):
            if message.seq > after_seq:
                digests[message.seq] = message.digest
        for turn in connection.execute(_TURNS, {**place, "up_to": up_to_turn}):
            if turn.seq > after_turn:
                found[turn.seq] = StoredTurn(turn.started_at, is_exported_running(_read_error(turn.error)))
        after_seq, after_turn = up_to_seq, up_to_turn
    return StoredConversation(
        row=row,
        lineage=lineage,
        digests=digests,
        turns=found,
        shared_seq=origins[0].up_to_seq if origins else 0,
        shared_turn=origins[0].up_to_turn if origins else 0,
        tags=frozenset(read_tags(connection, key)),
    )


def read_stored_lineage(connection: Connection, key: ConversationKey) -> Lineage | None:
    """Return the lineage of a conversation, also if it is deleted; None: there is no such conversation."""
    row = connection.execute(_LINEAGE, {"owner": key.owner, "id": key.id}).one_or_none()
    return read_lineage(key, row.lineage) if row is not None else None


def is_exported_running(error: object) -> bool:
    """Return True if a turn's error says that it was running when it was exported."""
    return isinstance(error, dict) and error.get("type") == EXPORTED_ERROR["type"]


def _read_error(column: str | None) -> object:
    try:
        return json.loads(column) if column is not None else None
    except DECODING_ERRORS:
        return None
