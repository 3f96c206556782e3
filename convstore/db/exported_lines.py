"""Read conversations as the lines of convstore's own export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, Table, bindparam, select
from sqlalchemy.types import BigInteger

from convstore.db.connection import Connection
from convstore.db.drawer_rows import read_ratings, read_tags
from convstore.db.fork_sharing import Lineage, list_origins, read_lineage, read_nearest_origin
from convstore.db.history_rows import read_tree
from convstore.db.message_rows import read_head
from convstore.db.redaction_rows import read_marks
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, conversation_not_found, damaged_row
from convstore.db.tables import conversations, summaries, turns
from convstore.values.export_format import (
    CONVERSATION_FIELDS,
    SUMMARY_FIELDS,
    TURN_FIELDS,
    Field,
    Line,
    make_rating_fields,
    make_redaction_fields,
    read_columns,
)
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.results import MessageRecord, TurnStatus

EXPORTED_ERROR = {"type": "Exported", "message": "the turn was running when it was exported"}

NOT_SHARED_ERROR = {"type": "NotShared", "message": "the reply is not in the past that the fork shares"}

_FIRST_PAGE, _LARGEST_PAGE, _PAGE_BYTES = 20, 500, 8_000_000
_CONVERSATION = select(conversations).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_check_conversation = RowCheck(conversations.c)


def _select_page(table: Table, number: str) -> Select[Any]:
    return (
        select(table)
        .where(
            table.c.owner == bindparam("owner"),
            table.c.conversation_id == bindparam("id"),
            table.c[number] > bindparam("after", type_=BigInteger),
            table.c[number] <= bindparam("up_to", type_=BigInteger),
        )
        .order_by(table.c[number])
        .limit(_LARGEST_PAGE)
    )


_IDS = (
    select(conversations.c.id)
    .where(conversations.c.owner == bindparam("owner"), conversations.c.id > bindparam("after"))
    .order_by(conversations.c.id)
    .limit(_LARGEST_PAGE)
)
_FORKS = select(conversations.c.id, conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.lineage.is_not(None)
)
_ORIGIN = select(conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_TURNS, _SUMMARIES = _select_page(turns, "seq"), _select_page(summaries, "turn_seq")
_check_turns, _check_summaries = RowCheck(turns.c), RowCheck(summaries.c)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the turns of a conversation, which one conversation keeps."""

    home: ConversationKey
    after: int
    up_to: int
    last_seq: int
    """The last message that belongs to it."""


def iterate_lines(
    connection: Connection, key: ConversationKey, written: Mapping[str, tuple[int, int]]
) -> Iterator[Line]:
    """Yield a conversation as lines, read page by page: itself, its messages, its turns, its summaries.

    Args:
        written: the conversations that the export has already, each with the `next_seq` and the `next_turn` that were
            written. If the one that it was forked from is among them, with all that both share, the shared past is
            left out.

    Raises:
        ConversationNotFound: the owner has no such conversation, not even a deleted one.
        DamagedRow: a row cannot be decoded.
    """
    row = connection.execute(_CONVERSATION, {"owner": key.owner, "id": key.id}).one_or_none()
    if row is None:
        raise conversation_not_found(connection, key)
    _check_conversation([row], key.id)
    lineage = read_lineage(key, row.lineage)
    line = {"type": "conversation", **_read(row, CONVERSATION_FIELDS, key, "its row")}
    if tags := read_tags(connection, key):
        line["tags"] = tags
    after, last_seq, last_turn = NO_SEQ, row.next_seq - 1, row.next_turn - 1
    parts = [_Part(key, 0, last_turn, last_seq)]
    if lineage.is_fork:
        origins = list(list_origins(connection, lineage))
        near = origins[0]
        next_seq, next_turn = written.get(near.conversation_id, (0, 0))
        if near.up_to_seq < next_seq and near.up_to_turn < next_turn:
            line["forked_from"] = {
                "id": near.conversation_id,
                "up_to_seq": near.up_to_seq,
                "up_to_turn": near.up_to_turn,
            }
            shared = read_head(connection, lineage, near.up_to_seq)
            if shared is not None:
                line["forked_from"]["digest"] = shared.digest.hex()
            after, parts = near.up_to_seq, [_Part(key, near.up_to_turn, last_turn, last_seq)]
        else:
            limits = [*(origin.up_to_turn for origin in origins), 0]
            parts = [_Part(key, limits[0], last_turn, last_seq)]
            for origin, before in zip(origins, limits[1:], strict=True):
                home = ConversationKey(key.owner, origin.conversation_id)
                parts.insert(0, _Part(home, before, origin.up_to_turn, origin.up_to_seq))
    yield line
    yield from _iterate_messages(connection, lineage, after, Seq(row.next_seq))
    for part in parts:
        yield from _iterate_turns(connection, part, is_shared=part.home != key)
    for part in parts:
        for found in _iterate_rows(connection, _SUMMARIES, part, "turn_seq"):
            _check_summaries([found], key.id, "a summary")
            if found.up_to_seq > part.last_seq:  # it is about messages that the fork does not share
                continue
            yield {"type": "summary", **_read(found, SUMMARY_FIELDS, key, f"the summary of turn {found.turn_seq}")}


def list_ids(connection: Connection, owner: str, after: str) -> list[str]:
    """Return a page of the ids of an owner's conversations, archived and deleted ones too, in alphabetical order.

    Args:
        after: the last id of the page before; "": this is the first.
    """
    return [row.id for row in connection.execute(_IDS, {"owner": owner, "after": after})]


def list_origin_ids(connection: Connection, owner: str) -> set[str]:
    """Return the ids of the conversations that others were forked from."""
    found: set[str] = set()
    for row in connection.execute(_FORKS, {"owner": owner}):
        origin = read_nearest_origin(ConversationKey(owner, row.id), row.lineage)
        if origin is not None:
            found.add(origin.conversation_id)
    return found


def find_origin(connection: Connection, key: ConversationKey) -> str | None:
    """Return the id of the conversation that this one was forked from; None if it is no fork, or does not exist."""
    row = connection.execute(_ORIGIN, {"owner": key.owner, "id": key.id}).one_or_none()
    origin = read_nearest_origin(key, row.lineage) if row is not None else None
    return origin.conversation_id if origin is not None else None


def _iterate_messages(connection: Connection, lineage: Lineage, after: Seq, next_seq: Seq) -> Iterator[Line]:
    ratings = {rating.seq: rating for rating in read_ratings(connection, lineage)}
    page = _FIRST_PAGE
    while records := read_tree(connection, lineage, after, page):
        size = 1
        marks = read_marks(connection, lineage, [record.seq for record in records])
        for record in records:
            if record.seq >= next_seq:  # it was stored after the conversation was read
                return
            line = make_message_line(record)
            if rating := ratings.get(record.seq):
                line["rating"] = make_rating_fields(rating)
            if mark := marks.get(record.seq):
                line["redaction"] = make_redaction_fields(mark)
            size += _estimate_size(line)
            yield line
        after = records[-1].seq
        page = max(1, min(_LARGEST_PAGE, _PAGE_BYTES * len(records) // size))


def _estimate_size(line: Line) -> int:
    content = line["message"].get("content")
    return len(content) if isinstance(content, str) and len(line["message"]) == 2 else len(str(line["message"]))


def make_message_line(record: MessageRecord) -> Line:
    """Return the line of a message."""
    line: Line = {
        "type": "message",
        "seq": record.seq,
        "parent_seq": record.parent_seq,
        "position": record.position,
        "created_at": record.created_at.isoformat(),
        "digest": record.digest.hex(),
        "message": record.message,
    }
    if record.turn is not None:
        line["turn"] = record.turn
    if record.tokens is not None:
        line["tokens"] = record.tokens
    return line


def _iterate_turns(connection: Connection, part: _Part, *, is_shared: bool) -> Iterator[Line]:
    for row in _iterate_rows(connection, _TURNS, part, "seq"):
        _check_turns([row], part.home.id, f"turn {row.seq}")
        line = {"type": "turn", **_read(row, TURN_FIELDS, part.home, f"turn {row.seq}")}
        if (row.first_input_seq or 0) > part.last_seq:  # the turn began after the fork, or after the row was read
            continue
        if row.status == TurnStatus.RUNNING or (row.output_seq or 0) > part.last_seq:
            error = NOT_SHARED_ERROR if is_shared else EXPORTED_ERROR
            line |= {"status": TurnStatus.INTERRUPTED.value, "ended_at": line["started_at"], "error": error}
            if (row.last_input_seq or 0) > part.last_seq:
                line["last_input_seq"] = part.last_seq
            names = ["type", *(field.name for field in TURN_FIELDS)]  # in the order of all lines of turns
            line = {name: line[name] for name in names if name in line and name != "output_seq"}
        yield line


def _iterate_rows(connection: Connection, statement: Select[Any], part: _Part, number: str) -> Iterator[Any]:
    while True:
        values = {"owner": part.home.owner, "id": part.home.id, "after": part.after, "up_to": part.up_to}
        rows = connection.execute(statement, values).all()
        yield from rows
        if len(rows) < _LARGEST_PAGE:
            return
        part = replace(part, after=getattr(rows[-1], number))


def _read(row: Any, fields: tuple[Field, ...], key: ConversationKey, what: str) -> Line:
    try:
        return read_columns(row, fields)
    except DECODING_ERRORS as error:
        raise damaged_row(key.id, f"{what} cannot be decoded ({error})") from error
