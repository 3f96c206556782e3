"""Pin and unpin messages; drop a summary."""

from __future__ import annotations

from convstore.context.history_reader import find_summary
from convstore.context.window import make_records_sendable
from convstore.db.ancestors import find_ancestors, read_message_at
from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import lock_row, set_pins
from convstore.db.head_rows import ConversationState, read_state
from convstore.db.message_rows import read_messages
from convstore.db.summary_rows import set_latest_summary
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput
from convstore.leases.claims import lock_conversation
from convstore.messages.tool_calls import find_unanswered_calls
from convstore.values.identifiers import ConversationKey, Position, Seq
from convstore.values.results import Conversation, MessageRecord, Summary

MAX_PINNED_MESSAGES = 100
_MAX_TOOL_MESSAGES = 200  # number of messages around a tool call or result in which its group is searched


def pin(work: UnitOfWork, key: ConversationKey, position: Position, expected_head: Seq | None) -> Conversation:
    """Pin the message at a position; a tool call together with its results.

    Raises:
        InvalidInput: the path has no such position, its tool calls have no results yet, or too many messages are
            pinned.
    """
    state = lock_conversation(work, key, expected_head)
    group = _read_group(work, state, position)
    pins = dict(state.pins) | {record.seq: record.position for record in group}
    if len(pins) > MAX_PINNED_MESSAGES:
        raise InvalidInput(
            f"conversation {key.id!r} would have {len(pins)} pinned messages; {MAX_PINNED_MESSAGES} is the most: "
            f"`unpin` some"
        )
    set_pins(work.connection, key, sorted(pins.items()))
    return get_conversation(work.connection, key)


def unpin(work: UnitOfWork, key: ConversationKey, position: Position, expected_head: Seq | None) -> Conversation:
    """Unpin the message at a position; a tool call together with its results.

    Raises:
        InvalidInput: the path has no such position, or its tool calls have no results yet.
    """
    state = lock_conversation(work, key, expected_head)
    group = {record.seq for record in _read_group(work, state, position)}
    set_pins(work.connection, key, sorted((seq, place) for seq, place in state.pins if seq not in group))
    return get_conversation(work.connection, key)


def _read_group(work: UnitOfWork, state: ConversationState, position: Position) -> list[MessageRecord]:
    """Return the message at a position; if it is a tool call or a result, the whole call with its results."""
    head = state.head.seq
    record = read_message_at(work.connection, state.lineage, head, position)
    if record.message["role"] != "tool" and not record.message.get("tool_calls"):
        return [record]
    around = range(record.position - _MAX_TOOL_MESSAGES, record.position + _MAX_TOOL_MESSAGES + 1)
    seqs = find_ancestors(work.connection, state.lineage, head, around)
    records = read_messages(work.connection, state.lineage, seqs.values())
    at = next(place for place, one in enumerate(records) if one.seq == record.seq)
    first = at
    while first > 0 and records[first].message["role"] == "tool":
        first -= 1
    last = max(first, at)
    while last + 1 < len(records) and records[last + 1].message["role"] == "tool":
        last += 1
    group = records[first : last + 1]
    if find_unanswered_calls(make_records_sendable(group)):
        raise InvalidInput(
            f"conversation {state.lineage.key.id!r}: the tool calls of message {position} have no results yet; "
            f"`append` them first"
        )
    return group


def drop_summary(work: UnitOfWork, key: ConversationKey) -> Summary | None:
    """Stop sending the latest summary of the path, and return it; None if the path has no summary.

    The summary before it is sent again.
    """
    lock_row(work.connection, key)  # a summary that is being stored at the same time would be lost
    summary = find_summary(work.connection, read_state(work.connection, key))
    if summary is not None:
        set_latest_summary(work.connection, key, summary.previous_turn)
    return summary
