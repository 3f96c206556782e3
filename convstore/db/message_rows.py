"""Read messages by their numbers, and decode their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, FromClause, Row, Select, bindparam, select

from convstore.db.attachment_rows import read_attachments, read_sizes
from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, find_message_home, locate_message
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row, missing_message
from convstore.db.tables import messages as table
from convstore.messages.codec import StoredMessage, decode, digest, find_attachment_digests
from convstore.messages.inline_data import encode_attachments
from convstore.messages.message import Message
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Turn

STRIDES = (32, 1024, 32768)
"""The distances at which a message names its ancestors, in the columns `back_…`."""

BACK_COLUMNS = tuple(f"back_{stride}" for stride in STRIDES)
CONTEXT_ROLES = ("system", "developer")

COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.seq,
    table.c.parent_seq,
    table.c.position,
    table.c.role,
    table.c.name,
    table.c.content,
    table.c.extra,
    table.c.tokens,
    table.c.context_seq,
    table.c.turn_seq,
    *(table.c[name] for name in BACK_COLUMNS),
    table.c.digest,
    table.c.created_at,
)
_WIDTH = len(COLUMNS)
MESSAGE_COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.seq,
    table.c.parent_seq,
    table.c.role,
    table.c.name,
    table.c.content,
    table.c.extra,
    table.c.turn_seq,
    table.c.digest,
)
"""What `decode_path` needs of a message."""
_check_types, _check_message_types = RowCheck(COLUMNS), RowCheck(MESSAGE_COLUMNS)
_IN_CONVERSATION = (table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))


def select_parent_digest(row: FromClause) -> ColumnElement[bytes]:
    """Return the column `parent_digest`: the digest of the message before a row's message.

    It is NULL if the message is the first of its path, or the first that a fork keeps.

    Args:
        row: messages.
    """
    parent = table.alias("parent")
    return (
        select(parent.c.digest)
        .where(
            parent.c.owner == bindparam("owner"),
            parent.c.conversation_id == row.c.conversation_id,
            parent.c.seq == row.c.parent_seq,
        )
        .correlate(row)
        .scalar_subquery()
        .label("parent_digest")
    )


_WITH_PARENTS: Select[Any] = select(*COLUMNS, select_parent_digest(table)).where(*_IN_CONVERSATION)
_ONE = _WITH_PARENTS.where(table.c.seq == bindparam("seq"))
_SEVERAL = _WITH_PARENTS.where(table.c.seq.in_(bindparam("seqs", expanding=True)))
_BETWEEN = _WITH_PARENTS.where(table.c.seq >= bindparam("first"), table.c.seq <= bindparam("last")).order_by(
    table.c.seq
)
_PLACE = select(table.c.parent_seq, table.c.position).where(*_IN_CONVERSATION, table.c.seq == bindparam("seq"))
_check_place = RowCheck(_PLACE.selected_columns)
_AMONG = (*_IN_CONVERSATION, table.c.seq.in_(bindparam("seqs", expanding=True)))
_DIGESTS = select(table.c.seq, table.c.digest).where(*_AMONG)
_POSITIONS = select(table.c.seq, table.c.position).where(*_AMONG)
_MAX_VARIABLES = 500  # in one statement; an old SQLite takes 999


class PathMessage(NamedTuple):
    """A message of a path, without the rest of its row."""

    message: Message
    position: Position
    turn: TurnNumber | None


def find_place(connection: Connection, lineage: Lineage, seq: Seq) -> tuple[Seq, Position] | None:
    """Return the parent and the position of a message, or None; its content is not read."""
    row = connection.execute(_PLACE, {**_bind_home(connection, lineage, seq), "seq": seq}).one_or_none()
    if row is None:
        return None
    _check_place([row], lineage.key.id, f"message seq {seq}")
    return Seq(row.parent_seq), Position(row.position)


def find_message(connection: Connection, lineage: Lineage, seq: Seq) -> MessageRecord | None:
    """Return the message with this number, or None."""
    rows = connection.execute(_ONE, {**_bind_home(connection, lineage, seq), "seq": seq}).all()
    return decode_rows_with_parents(connection, rows, lineage)[0] if rows else None


def was_redacted(connection: Connection, lineage: Lineage, record: MessageRecord) -> bool:
    """Return True if a message, or one before it, is another one than it was when it was read."""
    now = find_message(connection, lineage, record.seq)
    return now is None or now.digest != record.digest


def read_head(connection: Connection, lineage: Lineage, head: Seq) -> MessageRecord | None:
    """Return the message at the head of a path.

    Return None if `head` is 0: the path is empty.

    Raises:
        DamagedRow: the message is missing.
    """
    record = find_message(connection, lineage, head) if head else None
    if head and record is None:
        raise missing_message(lineage.key.id, head)
    return record


def read_messages(connection: Connection, lineage: Lineage, seqs: Iterable[Seq]) -> list[MessageRecord]:
    """Return the messages with these numbers, by position.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    found: list[MessageRecord] = []
    for home, kept in group_by_home(connection, lineage, seqs).items():
        rows = connection.execute(_SEVERAL, {"owner": home.owner, "conversation_id": home.id, "seqs": kept}).all()
        found.extend(decode_rows_with_parents(connection, rows, lineage))
        for seq in sorted(set(kept) - {record.seq for record in found}):
            raise missing_message(lineage.key.id, seq)
    return sorted(found, key=lambda record: record.position)


def _bind_home(connection: Connection, lineage: Lineage, seq: Seq) -> dict[str, Any]:
    home = find_message_home(connection, lineage, seq)
    return {"owner": home.owner, "conversation_id": home.id}


def read_turn_input(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    """Return the input messages of a turn, in order; [] if the turn has none.

    The origin keeps them, not the fork, if a fork retries a request of its shared past.

    Args:
        lineage: a lineage without the conversation's origins is enough to find the messages. The first one is then not
            checked against the message before it if an origin keeps that one.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    if turn.first_input_seq is None or turn.last_input_seq is None:
        return []
    home = _bind_home(connection, lineage, turn.first_input_seq)
    rows = connection.execute(_BETWEEN, {**home, "first": turn.first_input_seq, "last": turn.last_input_seq}).all()
    found = decode_rows_with_parents(connection, rows, lineage, needs_parents=lineage.is_fork)
    lost = set(range(turn.first_input_seq, turn.last_input_seq + 1)) - {record.seq for record in found}
    if found and lost:
        raise missing_message(turn.conversation_id, min(lost))
    return found


def read_appended(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn without a model call stored.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    if turn.output_seq is None:
        return read_turn_input(connection, lineage, turn)
    turn = replace(turn, first_input_seq=turn.output_seq, last_input_seq=turn.output_seq)
    found = read_turn_input(connection, lineage, turn)
    if not found:
        raise missing_message(turn.conversation_id, turn.first_input_seq or 0)
    return found


def read_inline_data(connection: Connection, owner: str, stored: Iterable[StoredMessage]) -> dict[bytes, str]:
    """Return the base64 that rows refer to, by digest.

    Missing and damaged attachments are left out; `decode_message` then reports the message that needs them. There is
    no statement if the rows refer to nothing.
    """
    wanted: set[bytes] = set()
    for one in stored:
        with suppress(ValueError, RecursionError):  # `decode_message` reports a damaged row
            wanted |= find_attachment_digests(one)
    return encode_attachments(read_attachments(connection, owner, wanted))


def measure_attachments(connection: Connection, lineage: Lineage, extras: Sequence[str | None]) -> list[int]:
    """Return the bytes of the attachments that each message refers to, as base64.

    Args:
        extras: the column of each message, if it has references, else None.
    """
    digests: list[set[bytes]] = [set() for _ in extras]
    for place, extra in enumerate(extras):
        with suppress(ValueError, RecursionError):  # `decode_message` reports a damaged row
            if extra is not None:
                digests[place] = find_attachment_digests(StoredMessage("", None, None, extra))
    sizes = read_sizes(connection, lineage.key.owner, set().union(*digests))
    return [sum(-(-sizes.get(digest, 0) // 3) * 4 for digest in some) for some in digests]


def decode_message(stored: StoredMessage, texts: Mapping[bytes, str], conversation_id: str, seq: int) -> Message:
    """Return the exact message of a row.

    Args:
        texts: the result of `read_inline_data`; it may hold the texts of other rows too.

    Raises:
        DamagedRow: the row cannot be decoded, or an attachment is missing or damaged.
    """
    try:
        return decode(stored, texts)
    except (ValueError, RecursionError) as error:
        problem = "its extra fields are not JSON" if isinstance(error, json.JSONDecodeError) else error
        raise damaged_row(conversation_id, f"message seq {seq} cannot be decoded ({problem})") from error


def decode_rows_with_parents(
    connection: Connection,
    rows: Sequence[Row[Any]],
    lineage: Lineage,
    known: Mapping[int, bytes] = MappingProxyType({}),
    *,
    needs_parents: bool = True,
) -> list[MessageRecord]:
    """Return rows of `COLUMNS` with `parent_digest` as messages, as `decode_rows` does.

    Args:
        known: digests of other messages, by `seq`.
        needs_parents: as for `decode_rows`.
    """
    check_rows(rows, lineage)
    before = {**known, **{row.parent_seq: row.parent_digest for row in rows if row.parent_digest is not None}}
    elsewhere = {row.parent_seq for row in rows} - before.keys() - {row.seq for row in rows} - {NO_SEQ}
    if elsewhere and lineage.is_fork:  # the first messages that a fork keeps follow one that an origin keeps
        before.update(_read_digests(connection, lineage, elsewhere))
    return decode_rows(connection, rows, lineage, before, needs_parents=needs_parents)


def _read_digests(connection: Connection, lineage: Lineage, seqs: Iterable[Seq]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for home, kept in group_by_home(connection, lineage, seqs).items():
        values = {"owner": home.owner, "conversation_id": home.id, "seqs": kept}
        found.update((row.seq, row.digest) for row in connection.execute(_DIGESTS, values))
    return found


def find_existing(connection: Connection, lineage: Lineage, seqs: Iterable[Seq]) -> dict[Seq, Position]:
    """Return the positions of those of these messages that exist, by `seq`."""
    found: dict[Seq, Position] = {}
    for home, kept in group_by_home(connection, lineage, seqs).items():
        for first in range(0, len(kept), _MAX_VARIABLES):
            values = {"owner": home.owner, "conversation_id": home.id, "seqs": kept[first : first + _MAX_VARIABLES]}
            found.update((row.seq, row.position) for row in connection.execute(_POSITIONS, values))
    return found


def group_by_home(connection: Connection, lineage: Lineage, seqs: Iterable[Seq]) -> dict[ConversationKey, list[Seq]]:
    """Return messages by the conversation that keeps them."""
    homes: dict[ConversationKey, list[Seq]] = {}
    for seq in sorted(seqs, reverse=True):  # from the nearest origin to the farthest
        lineage = locate_message(connection, lineage, seq)
        homes.setdefault(find_message_home(connection, lineage, seq), []).append(seq)
    return homes


def check_rows(rows: Sequence[Row[Any]], lineage: Lineage) -> None:
    """Check the types of rows of `COLUMNS`, and that each message comes after its parent and after its context.

    Raises:
        DamagedRow: a row is damaged.
    """
    _check_types(rows, lineage.key.id, "message seq")
    for row in rows:
        if not (row.parent_seq < row.seq and row.context_seq < row.seq):
            raise damaged_row(lineage.key.id, f"message seq {row.seq} is its own ancestor")


def decode_rows(
    connection: Connection,
    rows: Sequence[Row[Any]],
    lineage: Lineage,
    before: Mapping[int, bytes],
    *,
    needs_parents: bool = True,
) -> list[MessageRecord]:
    """Return rows of `COLUMNS` as messages, in the order of the rows.

    Each message is checked against the digest of the message before it.

    Args:
        rows: rows that `check_rows` has passed.
        before: the digests of messages that are not among the rows, by `seq`: those that a row's message follows.
        needs_parents: if False, a message is not checked if the message before it is unknown.

    Raises:
        DamagedRow: a row cannot be decoded, was changed, or the message before it is missing.
    """
    id = lineage.key.id
    with_extra = [StoredMessage(row.role, row.name, row.content, row.extra) for row in rows if row.extra is not None]
    texts = read_inline_data(connection, lineage.key.owner, with_extra)
    digests: dict[int, bytes] = {NO_SEQ: b"", **before, **{row.seq: row.digest for row in rows}}
    found = []
    for row in rows:
        # All at once, which takes half the time of a look for each.
        seq, parent, position, role, name, content, extra, tokens, context, turn, *back, stored, created_at = row[
            :_WIDTH
        ]
        if extra is None and name is None and content is not None:
            message: Message = {"role": role, "content": content}
        else:
            message = decode_message(StoredMessage(role, name, content, extra), texts, id, seq)
        parent_digest = digests.get(parent)
        if parent_digest is not None:
            check_digest(stored, parent_digest, message, id, seq)
        elif needs_parents:
            raise missing_message(id, parent)
        found.append(
            MessageRecord(position, seq, parent, turn, created_at, message, stored, context, tokens, tuple(back))
        )
    return found


def check_path_types(rows: Sequence[tuple[Any, ...]], lineage: Lineage) -> None:
    """Check that rows of `MESSAGE_COLUMNS` hold values of their columns' types.

    Raises:
        DamagedRow: a value has another type.
    """
    _check_message_types(rows, lineage.key.id, "message seq")


def decode_path(
    connection: Connection, rows: Sequence[tuple[Any, ...]], lineage: Lineage, before: MessageRecord | None
) -> list[PathMessage]:
    """Return rows of `MESSAGE_COLUMNS`, each the parent of the next, as messages.

    Each message is checked against the digest of the message before it.

    Args:
        rows: rows that `check_path_types` has passed.
        before: the message before the first row; None: the path begins there.

    Raises:
        DamagedRow: a row cannot be decoded, or was changed.
    """
    id = lineage.key.id
    with_extra = [StoredMessage(*row[2:6]) for row in rows if row[5] is not None]
    texts = read_inline_data(connection, lineage.key.owner, with_extra)
    position, parent = (before.position, before.digest) if before is not None else (0, b"")
    found = []
    for seq, _, role, name, content, extra, turn, stored in rows:
        if extra is None and name is None and content is not None:
            message: Message = {"role": role, "content": content}
        else:
            message = decode_message(StoredMessage(role, name, content, extra), texts, id, seq)
        check_digest(stored, parent, message, id, seq)
        position += 1
        parent = stored
        found.append(PathMessage(message, Position(position), turn))
    return found


def check_digest(stored: bytes, parent: bytes, message: Message, conversation_id: str, seq: int) -> None:
    """Check a message against its stored digest and the digest of the message before it.

    Raises:
        DamagedRow: they do not fit together.
    """
    if not isinstance(parent, bytes) or digest(parent, message) != stored:
        raise damaged_row(
            conversation_id, f"message seq {seq} does not fit its digest: it, or the message before it, was changed"
        )
