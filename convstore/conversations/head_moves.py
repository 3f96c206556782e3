"""What moves a conversation along its tree without a model: undo, redo, checkout; forks, pins. One transaction each."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from convstore.context import history_reader
from convstore.context.window import turn_beginnings
from convstore.db import conversation_rows, head_rows, history_rows, lease_rows, message_rows, summary_rows, turn_rows
from convstore.db.head_rows import State
from convstore.db.history_rows import Reach
from convstore.errors import InvalidInput
from convstore.messages.tool_calls import unanswered
from convstore.values.results import Conversation, MessageRecord, Summary, TurnStatus, Unchanged

MOST_PINS = 100
_LONGEST_LOOP = 200  # messages that are looked at for a tool call and its results


def undo(
    connection: Connection,
    owner: str,
    id: str,
    n: int,
    expected_head: int | None,
    now: datetime,
    alive: lease_rows.Alive,
) -> Conversation:
    """Move the head back by `n` turns.

    Raises:
        InvalidInput: there are not so many.
    """
    state = _taken(connection, owner, id, expected_head, now, alive)
    records = history_rows.suffix(connection, state.lineage, state.head, Reach(turns=n))
    whole = bool(records) and records[0].parent_seq == 0
    beginnings = turn_beginnings(records, from_the_first=whole)
    if len(beginnings) < n:
        found = f"only {len(beginnings)} turn{'s' if len(beginnings) > 1 else ''}" if beginnings else "no turn"
        raise InvalidInput(f"conversation {id} has {found} to undo")
    to = _before_input(connection, state, records, beginnings[-n])
    head_rows.move(connection, owner, id, *to, redo=(*state.redo, state.head), now=now)
    return conversation_rows.get(connection, owner, id)


def _before_input(connection: Connection, state: State, records: list[MessageRecord], at: int) -> tuple[int, int]:
    """Return number and position of the message before the input whose user's message is at place `at`.

    A system message that was given together with a user's goes with it.
    """
    first = records[at]
    while first.turn is not None and first.parent_seq != 0:
        at -= 1
        before = records[at] if at >= 0 else message_rows.at(connection, state.lineage, first.parent_seq)
        if before is None or before.turn is None:
            break
        # It was given with this question, or with the one whose place this one took (`edit`).
        if before.turn != first.turn and before.message["role"] not in ("system", "developer"):
            break
        first = before
    return first.parent_seq, first.position - 1


def redo(
    connection: Connection, owner: str, id: str, expected_head: int | None, now: datetime, alive: lease_rows.Alive
) -> Conversation:
    """Move the head to where the latest undo found it.

    Raises:
        InvalidInput: nothing was undone, or the conversation has gone on another way since.
    """
    state = _taken(connection, owner, id, expected_head, now, alive)
    if not state.redo:
        raise InvalidInput(f"conversation {id} has nothing to redo")
    to = state.redo[-1]
    target = message_rows.at(connection, state.lineage, to)
    way = history_rows.ancestors(connection, state.lineage, to, [state.length])
    if target is None or target.position <= state.length or (state.head and way.get(state.length) != state.head):
        raise InvalidInput(
            f"conversation {id} has gone on another way since the last undo, which left message seq {to}; "
            f"`convstore checkout {to}` goes back there"
        )
    head_rows.move(connection, owner, id, target.seq, target.position, redo=state.redo[:-1], now=now)
    return conversation_rows.get(connection, owner, id)


def checkout(
    connection: Connection,
    owner: str,
    id: str,
    seq: int,
    expected_head: int | None,
    now: datetime,
    alive: lease_rows.Alive,
) -> Conversation:
    """Move the head to any message; 0: before the first.

    Raises:
        InvalidInput: there is no such message, or it is a tool call that broke off.
    """
    state = _taken(connection, owner, id, expected_head, now, alive)
    position = 0
    if seq:
        record = _existing(connection, state, id, seq)
        _check_whole(connection, state, id, record)
        position = record.position
    head_rows.move(connection, owner, id, seq, position, redo=state.redo, now=now)
    return conversation_rows.get(connection, owner, id)


def _existing(connection: Connection, state: State, id: str, seq: int) -> MessageRecord:
    record = message_rows.get(connection, state.lineage, seq)
    if record is None:
        raise InvalidInput(f"conversation {id} has no message with seq {seq}; `convstore show --tree` lists them")
    return record


def _check_whole(connection: Connection, state: State, id: str, record: MessageRecord) -> None:
    if record.turn is None or not (record.message.get("tool_calls") or record.message.get("function_call")):
        return
    turn = turn_rows.get(connection, state.lineage.owner, state.lineage.home_of_turn(record.turn), record.turn)
    if turn is not None and turn.status is not TurnStatus.COMPLETED:
        raise InvalidInput(
            f"conversation {id}: message seq {record.seq} is a tool call that broke off; it must not be sent as if it "
            f"were whole"
        )


def fork(
    connection: Connection,
    owner: str,
    id: str,
    *,
    at: int | None,
    new_id: str,
    name: str | None,
    title: str | Unchanged | None,
    expected_head: int | None,
    now: datetime,
) -> Conversation:
    """Begin a conversation that shares the past of this one up to the message at position `at` (None: all of it).

    One row is written, however long the past is.

    Raises:
        InvalidInput: there is no such position.
        ConversationExists: the new id or the name is taken.
    """
    state = head_rows.state(connection, owner, id)
    lease_rows.check_head(id, state.head, expected_head)
    head, position = state.head, state.length
    if at is not None and at != position:
        if at:
            found = history_rows.ancestors(connection, state.lineage, state.head, [at])
            if at not in found:
                raise InvalidInput(f"conversation {id} has no message at position {at}")
            head, position = found[at], at
        else:
            head, position = 0, 0
    origins = state.lineage.forked(head, state.next_turn - 1)
    # Of the past that is shared: what has a greater number here is another message in the fork.
    known = summary_rows.latest(connection, state.lineage, state.summary_turn)
    head_rows.fork(
        connection,
        owner,
        id,
        new_id=new_id,
        name=name,
        title=None if isinstance(title, Unchanged) else title,
        keeps_title=isinstance(title, Unchanged),
        head=head,
        position=position,
        origins=origins,
        next_turn=state.next_turn,
        pins=[(seq, place) for seq, place in state.pins if seq <= head],
        summary_turn=next((summary.turn for summary in known if summary.up_to_seq <= head), None),
        now=now,
    )
    return conversation_rows.get(connection, owner, new_id)


def pin(
    connection: Connection,
    owner: str,
    id: str,
    position: int,
    pinned: bool,
    expected_head: int | None,
    now: datetime,
    alive: lease_rows.Alive,
) -> Conversation:
    """Pin, or unpin, the message at a position; a tool call together with its results.

    Raises:
        InvalidInput: there is no such position, its tool calls have no results yet, or there are too many pins.
    """
    state = _taken(connection, owner, id, expected_head, now, alive)
    record = history_reader.at_position(connection, state.lineage, state.head, position)
    group = {one.seq: one.position for one in _tool_group(connection, state, id, record)}
    kept = {seq: position for seq, position in state.pins if seq not in group}
    pins = kept | group if pinned else kept
    if len(pins) > MOST_PINS:
        raise InvalidInput(f"conversation {id} would have {len(pins)} pinned messages; {MOST_PINS} is the most")
    head_rows.pin(connection, owner, id, sorted(pins.items()))
    return conversation_rows.get(connection, owner, id)


def _tool_group(connection: Connection, state: State, id: str, record: MessageRecord) -> list[MessageRecord]:
    """Return the message by itself; or the tool call that it belongs to, and that call's results."""
    if record.message["role"] != "tool" and not record.message.get("tool_calls"):
        return [record]
    around = range(record.position - _LONGEST_LOOP, record.position + _LONGEST_LOOP + 1)
    seqs = history_rows.ancestors(connection, state.lineage, state.head, around)
    records = message_rows.several(connection, state.lineage, seqs.values())
    at = next(place for place, one in enumerate(records) if one.seq == record.seq)
    first = at
    while first > 0 and records[first].message["role"] == "tool":
        first -= 1
    last = max(first, at)
    while last + 1 < len(records) and records[last + 1].message["role"] == "tool":
        last += 1
    group = records[first : last + 1]
    if unanswered([one.message for one in group]):
        raise InvalidInput(f"conversation {id}: the tool calls of that message have no results yet")
    return group


def drop_summary(connection: Connection, owner: str, id: str) -> Summary | None:
    """Let the latest summary of the path stand in no more; the one before it does again. None: there is none."""
    conversation_rows.lock(connection, owner, id)  # a summary that is just being put on record would be lost
    state = head_rows.state(connection, owner, id)
    _, summary = history_reader.on_path(
        connection, history_reader.Standing(state.lineage, state.head, (), state.summary_turn)
    )
    if summary is not None:
        summary_rows.point(connection, owner, id, summary.previous_turn)
    return summary


def delete(connection: Connection, owner: str, id: str, now: datetime, alive: lease_rows.Alive) -> None:
    """Take a conversation out of sight."""
    head_rows.take(connection, owner, id, now, alive)
    head_rows.delete(connection, owner, id, now)


def restore(connection: Connection, owner: str, id: str) -> Conversation:
    """Bring a deleted conversation back."""
    head_rows.restore(connection, owner, id)
    return conversation_rows.get(connection, owner, id)


def _taken(
    connection: Connection, owner: str, id: str, expected_head: int | None, now: datetime, alive: lease_rows.Alive
) -> State:
    state = head_rows.take(connection, owner, id, now, alive)
    lease_rows.check_head(id, state.head, expected_head)
    return state
