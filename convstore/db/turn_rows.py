"""Read rows of turns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, select

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT
from convstore.db.fork_sharing import Lineage, find_turn_home, locate_turn
from convstore.db.message_rows import check_digest, decode_message, read_inline_data, select_parent_digest
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, damaged_row, missing_message
from convstore.db.tables import messages as message_table
from convstore.db.tables import turns as table
from convstore.messages.codec import StoredMessage
from convstore.messages.completion import Usage
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column, to_column
from convstore.messages.token_factor import MIN_TOKENS_FOR_OWN_FACTOR
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq, TurnNumber
from convstore.values.results import MessageRecord, Turn, TurnStatus
from convstore.values.window_report import WindowReport

_OUTPUT = (
    message_table.c.role,
    message_table.c.name,
    message_table.c.content,
    message_table.c.extra,
    message_table.c.parent_seq,
    message_table.c.digest,
)
READ_TURNS = (
    select(
        table,
        *(column.label(f"output_{column.name}") for column in _OUTPUT),
        select_parent_digest(message_table).label("output_parent_digest"),
    )
    .select_from(table)
    .outerjoin(
        message_table,
        (message_table.c.owner == bindparam("owner"))
        & (message_table.c.conversation_id == table.c.conversation_id)
        & (message_table.c.seq == table.c.output_seq),
    )
    .where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"))
    .order_by(table.c.seq.desc())
)
_check_types = RowCheck(READ_TURNS.selected_columns)
_ONE = READ_TURNS.where(table.c.seq == bindparam("seq"))
_LATEST = READ_TURNS.limit(bindparam("most"))
_LATEST_BEFORE = _LATEST.where(table.c.seq < bindparam("before"))
_LATEST_REQUEST = _LATEST_BEFORE.where(table.c.window.is_not(None), table.c.purpose.is_(None))
_MAX_SAMPLES, _MAX_TURNS_OF_OWNER = 16, 64
_SAMPLE_COLUMNS = (table.c.estimated_tokens, table.c.prompt_tokens, table.c.requested_model, table.c.started_at)


def _select_samples(latest: Any) -> Any:
    turns = latest.subquery("latest")
    return (
        select(turns.c.estimated_tokens, turns.c.prompt_tokens)
        .where(turns.c.requested_model == bindparam("model"), turns.c.estimated_tokens > 0, turns.c.prompt_tokens > 0)
        .order_by(turns.c.started_at.desc())
        .limit(_MAX_SAMPLES)
    )


_SAMPLES_OF_CONVERSATION = _select_samples(
    select(*_SAMPLE_COLUMNS)
    .where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"))
    .order_by(table.c.seq.desc())
    .limit(_MAX_SAMPLES)
)
_SAMPLES_OF_OWNER = _select_samples(
    select(*_SAMPLE_COLUMNS)
    .where(table.c.owner == bindparam("owner"))
    .order_by(table.c.started_at.desc())
    .limit(_MAX_TURNS_OF_OWNER)
)

_WINDOW = select(table.c.window).where(
    table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"), table.c.seq == bindparam("seq")
)
_check_sample = RowCheck(_SAMPLE_COLUMNS[:2])
_INTERRUPTED = select(table.c.output_seq).where(
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("id"),
    table.c.seq.in_(bindparam("seqs", expanding=True)),
    table.c.status == TurnStatus.INTERRUPTED.value,
)
_MAX_VARIABLES = 500  # in one statement; an old SQLite takes 999


def read_token_samples(connection: Connection, key: ConversationKey, model: str) -> list[tuple[int, int]]:
    """Return the estimated and reported tokens of the latest turns with this model.

    They are turns of the conversation, if these have enough tokens. Otherwise they are turns among the owner's latest
    64, so that no more rows are read. If those have too few tokens as well, the list is empty: in a short request, most
    tokens may be those that the provider adds.
    """
    values = {"owner": key.owner, "id": key.id, "model": to_column(model)}
    for statement in (_SAMPLES_OF_CONVERSATION, _SAMPLES_OF_OWNER):
        rows = connection.execute(statement, values).all()
        _check_sample(rows, key.id, "the tokens of a turn")
        found = [(row.estimated_tokens, row.prompt_tokens) for row in rows]
        if sum(estimated for estimated, _ in found) >= MIN_TOKENS_FOR_OWN_FACTOR:
            return found
    return []


def read_window(connection: Connection, lineage: Lineage, turn: TurnNumber) -> WindowReport | None:
    """Return the window of a turn of the path; None: the turn has none, or is missing.

    Raises:
        DamagedRow: it cannot be decoded.
    """
    key = find_turn_home(connection, lineage, turn)
    column = connection.scalar(_WINDOW, {"owner": key.owner, "id": key.id, "seq": turn})
    if column is None:
        return None
    try:
        return WindowReport.from_json_object(_read_object(column))
    except DECODING_ERRORS as error:
        raise damaged_row(lineage.key.id, f"the window of turn {turn} cannot be decoded ({error})") from error


def find_latest_request(connection: Connection, key: ConversationKey, before: TurnNumber) -> Turn | None:
    """Return the latest turn before `before` that asked a model for a reply, or None."""
    values = {"owner": key.owner, "id": key.id, "most": 1, "before": before}
    row = connection.execute(_LATEST_REQUEST, values).one_or_none()
    return decode_turns(connection, key.owner, [row])[0] if row is not None else None


def find_turn(connection: Connection, key: ConversationKey, seq: TurnNumber) -> Turn | None:
    """Return a turn of a conversation, or None."""
    row = connection.execute(_ONE, {"owner": key.owner, "id": key.id, "seq": seq}).one_or_none()
    return decode_turns(connection, key.owner, [row])[0] if row is not None else None


def list_turns(
    connection: Connection, key: ConversationKey, limit: int | None, before: TurnNumber | None = None
) -> list[Turn]:
    """Return the last turns of a conversation, in order.

    Args:
        limit: the largest number of turns; None: all.
        before: return only turns before this one.
    """
    values = {"owner": key.owner, "id": key.id, "most": limit if limit is not None else NO_LIMIT}
    if before is None:
        rows = connection.execute(_LATEST, values)
    else:
        rows = connection.execute(_LATEST_BEFORE, {**values, "before": before})
    return decode_turns(connection, key.owner, rows.all())[::-1]


def find_interrupted_replies(
    connection: Connection, lineage: Lineage, records: Sequence[MessageRecord]
) -> frozenset[Seq]:
    """Return the `seq` of the messages that are partial replies of interrupted turns."""
    homes: dict[ConversationKey, set[int]] = {}
    replies = {record.turn for record in records if record.turn is not None and record.message["role"] == "assistant"}
    for turn in sorted(replies, reverse=True):  # from the nearest origin to the farthest
        lineage = locate_turn(connection, lineage, turn)
        homes.setdefault(find_turn_home(connection, lineage, turn), set()).add(turn)
    found: set[Seq] = set()
    for home, seqs in homes.items():
        for some in _split(sorted(seqs), _MAX_VARIABLES):
            values = {"owner": home.owner, "id": home.id, "seqs": some}
            rows = connection.execute(_INTERRUPTED, values)
            found.update(Seq(row[0]) for row in rows if row[0] is not None)
    return frozenset(found)


def _split(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def decode_turns(connection: Connection, owner: str, rows: Sequence[Row[Any]]) -> list[Turn]:
    """Return rows of `READ_TURNS` as turns, in the order of the rows.

    Raises:
        DamagedRow: a row cannot be decoded.
    """
    for row in rows:
        _check_types([row], row.conversation_id, "turn")
    outputs = [_get_output(row) for row in rows]
    texts = read_inline_data(connection, owner, (output for output in outputs if output is not None))
    return [
        _decode_row(row, _decode_output(row, output, texts) if output is not None else None)
        for row, output in zip(rows, outputs, strict=True)
    ]


def _decode_output(row: Row[Any], output: StoredMessage, texts: Mapping[bytes, str]) -> Message:
    """Return a turn's reply, checked against the digest of the message before it.

    It is not checked if an origin of a fork keeps that message. It is when the path is read.
    """
    message = decode_message(output, texts, row.conversation_id, row.output_seq)
    before = b"" if row.output_parent_seq == NO_SEQ else row.output_parent_digest
    if before is not None:
        check_digest(row.output_digest, before, message, row.conversation_id, row.output_seq)
    return message


def _decode_row(row: Row[Any], message: Message | None) -> Turn:
    try:
        return Turn(
            conversation_id=row.conversation_id,
            seq=row.seq,
            status=TurnStatus(row.status),
            base_seq=row.base_seq,
            first_input_seq=row.first_input_seq,
            last_input_seq=row.last_input_seq,
            output_seq=row.output_seq,
            request=_read_object(row.request),
            window=WindowReport.from_json_object(_read_object(row.window)) if row.window is not None else None,
            purpose=row.purpose,
            estimated_tokens=row.estimated_tokens,
            message=message,
            finish_reason=from_column(row.finish_reason),
            model=from_column(row.model),
            response_id=from_column(row.response_id),
            system_fingerprint=from_column(row.system_fingerprint),
            usage=Usage(_read_object(row.usage)) if row.usage is not None else None,
            cost=row.cost,
            latency=to_seconds(row.latency_ms),
            time_to_first_token=to_seconds(row.first_token_ms),
            error=_read_object(row.error) if row.error is not None else None,
            attempts=tuple(json.loads(row.attempts)) if row.attempts is not None else (),
            idempotency_key=from_column(row.idempotency_key),
            started_at=row.started_at,
            ended_at=row.ended_at,
            response_fields=_read_object(row.response_fields) if row.response_fields is not None else {},
            notes=tuple(json.loads(row.notes)) if row.notes is not None else (),
        )
    except DECODING_ERRORS as error:
        raise damaged_row(row.conversation_id, f"turn {row.seq} cannot be decoded ({error})") from error


def _get_output(row: Row[Any]) -> StoredMessage | None:
    if row.output_seq is None:
        return None
    if row.output_role is None:
        raise missing_message(row.conversation_id, row.output_seq)
    return StoredMessage(row.output_role, row.output_name, row.output_content, row.output_extra)


def _read_object(column: str) -> dict[str, Any]:
    value = json.loads(column)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def to_seconds(milliseconds: int | None) -> float | None:
    """Return a column of milliseconds as seconds."""
    return milliseconds / 1000 if milliseconds is not None else None
