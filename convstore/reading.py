"""What stores read, in one transaction each: functions of a connection, over several nouns of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from convstore import past
from convstore.errors import ConversationNotFound, InvalidInput
from convstore.ledger import conversations, deltas, heads, leases, messages, paths, turns
from convstore.ledger.lineage import Lineage
from convstore.ledger.paths import Reach
from convstore.records import MessageRecord, Summary, Turn, TurnStatus
from convstore.streaming import Accumulator
from convstore.tools import unanswered as unanswered_calls

if TYPE_CHECKING:
    from convstore.prices import Prices
    from convstore.usage import UsageReport


def path(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> list[MessageRecord]:
    """Return the last messages of the current path, or the last before the one with the `seq` `before`."""
    head, lineage = conversations.head(connection, owner, conversation_id)
    if before is not None:
        record = messages.get(connection, lineage, before)
        if record is None:
            raise InvalidInput(f"conversation {conversation_id} has no message with seq {before}")
        head = record.parent_seq
    return paths.path(connection, lineage, head, limit)


def at(connection: Connection, owner: str, conversation_id: str, position: int) -> MessageRecord:
    """Return the message at a position of the current path."""
    head, lineage = conversations.head(connection, owner, conversation_id)
    return past.at_position(connection, lineage, head, position)


def tree(connection: Connection, owner: str, conversation_id: str) -> list[MessageRecord]:
    """Return every message, on the current path or off it, by `seq`."""
    _, lineage = conversations.head(connection, owner, conversation_id)
    return paths.tree(connection, lineage)


def input_of(connection: Connection, owner: str, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn asked with."""
    found = messages.input_of(connection, Lineage(owner, turn.conversation_id), turn)
    if found or turn.first_input_seq is None:
        return found
    try:
        _, lineage = conversations.head(connection, owner, turn.conversation_id)
    except ConversationNotFound:
        return []
    return messages.input_of(connection, lineage, turn)


def interrupted(
    connection: Connection, owner: str, conversation_id: str, records: Sequence[MessageRecord]
) -> frozenset[int]:
    """Return the `seq` of those of these messages that are replies which broke off."""
    _, lineage = conversations.head(connection, owner, conversation_id)
    return turns.interrupted(connection, lineage, records)


def pending_calls(connection: Connection, owner: str, conversation_id: str) -> list[dict[str, Any]]:
    """Return the tool calls at the end of the path that have no result, as the assistant's message has them.

    Of earlier ones it is too late: a result has to follow its call, before anything else is said.
    """
    head, lineage = conversations.head(connection, owner, conversation_id)
    found = [record.message for record in paths.suffix(connection, lineage, head, Reach(turns=1))]
    spoken = [place for place, message in enumerate(found) if message["role"] != "tool"]
    return unanswered_calls(found[spoken[-1] :]) if spoken else []


def summary(connection: Connection, owner: str, conversation_id: str) -> Summary | None:
    """Return the summary that stands in for the older part of the current path, or None."""
    state = heads.state(connection, owner, conversation_id)
    standing = past.Standing(state.lineage, state.head, (), state.summary_turn)
    return past.on_path(connection, standing)[1]


def latest_turns(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> list[Turn]:
    """Return the last turns, or the last before turn `before`."""
    conversations.head(connection, owner, conversation_id)  # raises where there is no such conversation
    return turns.latest(connection, owner, conversation_id, limit, before)


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
    from convstore.ledger.usage import report

    found = report(connection, owner, prices, conversation_id=conversation_id, since=since, until=until, by=by)
    if conversation_id is not None and not found.total.turns:
        conversations.head(connection, owner, conversation_id)  # raises where there is no such conversation
    return found


def usage_by_owner(
    connection: Connection, prices: Prices, *, since: datetime | None, until: datetime | None
) -> UsageReport:
    """Return what the turns of all owners used."""
    from convstore.ledger.usage import report

    return report(connection, None, prices, since=since, until=until, by="owner")


def unanswered(connection: Connection, owner: str, conversation_id: str) -> list[Turn]:
    """Return the turns that asked since the last answer and have none; of those asked again, the last try."""
    head, _ = conversations.head(connection, owner, conversation_id)
    latest = {
        turn.first_input_seq: turn
        for turn in turns.latest(connection, owner, conversation_id, limit=20)
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
    connection: Connection, owner: str, conversation_id: str, at: Following | None, alive: leases.Alive
) -> tuple[Following | None, str]:
    """Return the text that a running reply has added since `at`, and where the reader stands then; None: none runs."""
    # Asked before the turn is read: a turn that runs, and did not hold its conversation before, has no process.
    running = leases.holder(connection, owner, conversation_id, datetime.now(UTC))
    if at is None:
        if running is None:
            return None, ""
        at = Following(running.turn)
    turn = turns.get(connection, owner, conversation_id, at.turn)
    if turn is None or turn.status is not TurnStatus.RUNNING:
        rest = turn.text[at.length :] if turn is not None else ""
        return Following(at.turn, at.number, at.length + len(rest), over=True), rest
    added = Accumulator()
    number, text = at.number, ""
    for number, delta in deltas.after(connection, owner, conversation_id, at.turn, at.number):  # noqa: B007
        text += added.add(delta)
    over = running is None or running.is_dead(alive)
    return Following(at.turn, number, at.length + len(text), over), text
