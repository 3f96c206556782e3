"""What stores read, in one transaction each: functions of a connection, over several nouns of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from convstore.context import history_reader
from convstore.db import conversation_rows, delta_rows, head_rows, history_rows, lease_rows, message_rows, turn_rows
from convstore.db.fork_sharing import Lineage
from convstore.db.history_rows import Reach
from convstore.errors import ConversationNotFound, InvalidInput
from convstore.messages.chunk_accumulator import Accumulator
from convstore.messages.tool_calls import unanswered as unanswered_calls
from convstore.values.results import MessageRecord, Summary, Turn, TurnStatus

if TYPE_CHECKING:
    from convstore.usage.prices import Prices
    from convstore.usage.usage_report import UsageReport


def path(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> list[MessageRecord]:
    """Return the last messages of the current path, or the last before the one with the `seq` `before`."""
    head, lineage = conversation_rows.head(connection, owner, conversation_id)
    if before is not None:
        record = message_rows.get(connection, lineage, before)
        if record is None:
            raise InvalidInput(f"conversation {conversation_id} has no message with seq {before}")
        head = record.parent_seq
    return history_rows.path(connection, lineage, head, limit)


def at(connection: Connection, owner: str, conversation_id: str, position: int) -> MessageRecord:
    """Return the message at a position of the current path."""
    head, lineage = conversation_rows.head(connection, owner, conversation_id)
    return history_reader.at_position(connection, lineage, head, position)


def tree(connection: Connection, owner: str, conversation_id: str) -> list[MessageRecord]:
    """Return every message, on the current path or off it, by `seq`."""
    _, lineage = conversation_rows.head(connection, owner, conversation_id)
    return history_rows.tree(connection, lineage)


def input_of(connection: Connection, owner: str, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn asked with."""
    found = message_rows.input_of(connection, Lineage(owner, turn.conversation_id), turn)
    if found or turn.first_input_seq is None:
        return found
    try:
        _, lineage = conversation_rows.head(connection, owner, turn.conversation_id)
    except ConversationNotFound:
        return []
    return message_rows.input_of(connection, lineage, turn)


def interrupted(
    connection: Connection, owner: str, conversation_id: str, records: Sequence[MessageRecord]
) -> frozenset[int]:
    """Return the `seq` of those of these messages that are replies which broke off."""
    _, lineage = conversation_rows.head(connection, owner, conversation_id)
    return turn_rows.interrupted(connection, lineage, records)


def pending_calls(connection: Connection, owner: str, conversation_id: str) -> list[dict[str, Any]]:
    """Return the tool calls at the end of the path that have no result, as the assistant's message has them.

    Of earlier ones it is too late: a result has to follow its call, before anything else is said.
    """
    head, lineage = conversation_rows.head(connection, owner, conversation_id)
    found = [record.message for record in history_rows.suffix(connection, lineage, head, Reach(turns=1))]
    spoken = [place for place, message in enumerate(found) if message["role"] != "tool"]
    return unanswered_calls(found[spoken[-1] :]) if spoken else []


def summary(connection: Connection, owner: str, conversation_id: str) -> Summary | None:
    """Return the summary that stands in for the older part of the current path, or None."""
    state = head_rows.state(connection, owner, conversation_id)
    standing = history_reader.Standing(state.lineage, state.head, (), state.summary_turn)
    return history_reader.on_path(connection, standing)[1]


def latest_turns(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> list[Turn]:
    """Return the last turns, or the last before turn `before`."""
    conversation_rows.head(connection, owner, conversation_id)  # raises where there is no such conversation
    return turn_rows.latest(connection, owner, conversation_id, limit, before)


def usage(
    connection: Connection,
    owner: str,
    conversation_id: str | None,
    prices: Prices,
    *,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
) -> UsageReport:
    """Return what an owner's turns used, or a conversation's."""
    from convstore.db.usage_sums import report

    found = report(connection, owner, prices, conversation_id=conversation_id, since=since, until=until, by=by)
    if conversation_id is not None and not found.total.turns:
        conversation_rows.head(connection, owner, conversation_id)  # raises where there is no such conversation
    return found


def usage_by_owner(
    connection: Connection, prices: Prices, *, since: datetime | None, until: datetime | None
) -> UsageReport:
    """Return what the turns of all owners used."""
    from convstore.db.usage_sums import report

    return report(connection, None, prices, since=since, until=until, by="owner")


def unanswered(connection: Connection, owner: str, conversation_id: str) -> list[Turn]:
    """Return the turns that asked since the last answer and have none; of those asked again, the last try."""
    head, _ = conversation_rows.head(connection, owner, conversation_id)
    latest = {
        turn.first_input_seq: turn
        for turn in turn_rows.latest(connection, owner, conversation_id, limit=20)
        if turn.first_input_seq is not None and turn.first_input_seq > head and turn.base_seq == head
    }
    return [turn for turn in latest.values() if turn.status is not TurnStatus.COMPLETED]


@dataclass(frozen=True, slots=True)
class Following:
    """How far a reader of another process's reply has come."""

    turn: int
    number: int = 0
    """The last delta that was read."""
    length: int = 0
    """Characters of text that were read."""
    over: bool = False


def follow(
    connection: Connection, owner: str, conversation_id: str, at: Following | None, alive: lease_rows.Alive
) -> tuple[Following | None, str]:
    """Return the text that a running reply has added since `at`, and where the reader stands then; None: none runs."""
    # Asked before the turn is read: a turn that runs, and did not hold its conversation before, has no process.
    running = lease_rows.holder(connection, owner, conversation_id, datetime.now(UTC))
    if at is None:
        if running is None:
            return None, ""
        at = Following(running.turn)
    turn = turn_rows.get(connection, owner, conversation_id, at.turn)
    if turn is None or turn.status is not TurnStatus.RUNNING:
        rest = turn.text[at.length :] if turn is not None else ""
        return Following(at.turn, at.number, at.length + len(rest), over=True), rest
    added = Accumulator()
    number, text = at.number, ""
    for number, delta in delta_rows.after(connection, owner, conversation_id, at.turn, at.number):  # noqa: B007
        text += added.add(delta)
    over = running is None or running.is_dead(alive)
    return Following(at.turn, number, at.length + len(text), over), text
