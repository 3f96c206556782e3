"""What a window may need of the past, read in one transaction: functions of a connection, over several nouns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from convstore.context.window import Past, Policy, Scale
from convstore.db import history_rows, message_rows, summary_rows, turn_rows
from convstore.db.engine import EVERYTHING
from convstore.db.fork_sharing import Lineage
from convstore.db.history_rows import Reach
from convstore.errors import InvalidInput
from convstore.messages.token_estimate import Counter, learn
from convstore.values.results import MessageRecord, Summary


@dataclass(frozen=True, slots=True)
class Standing:
    """A conversation as a window sees it: its head, and what is known of its past without reading that."""

    lineage: Lineage
    head: int
    pins: Sequence[tuple[int, int]]
    summary_turn: int | None


def scale(
    connection: Connection, lineage: Lineage, chosen: Policy, request: Mapping[str, Any], count: Counter
) -> Scale:
    """Return how tokens are counted for the model of a request: what it reported is read where there is a budget."""
    if chosen.max_context is None:
        return Scale(count)
    samples = turn_rows.token_samples(connection, lineage.owner, lineage.conversation_id, request["model"])
    return Scale(count, learn(samples))


def read(connection: Connection, standing: Standing, chosen: Policy, scale: Scale, *, continues: bool) -> Past:
    """Return the end of the path as far as the policy can let it be sent, and what of the rest is sent anyway.

    Rows are read for what a window can hold, whatever lies before it; all of the path only where nothing limits it.

    Raises:
        DamagedRow: a message that is needed is missing, or cannot be decoded.
    """
    lineage, head = standing.lineage, standing.head
    if not chosen.history:
        return Past(message_rows.at(connection, lineage, head))
    pins, summary = on_path(connection, standing)
    if chosen.last is None and chosen.max_context is None and summary is None:
        path = history_rows.path(connection, lineage, head)
        return Past(path[-1] if path else None, path)
    reach = Reach(
        turns=chosen.last + continues if chosen.last is not None else EVERYTHING,
        tokens=scale.counted(chosen.max_context) if chosen.max_context is not None else EVERYTHING,
        after_position=summary.up_to_position if summary is not None else 0,
    )
    tail = history_rows.suffix(connection, lineage, head, reach)
    if not tail:
        return Past()
    if summary is not None and tail[-1].position <= summary.up_to_position:
        return _summarised(connection, lineage, tail[-1], summary, pins)
    context = history_rows.context(connection, lineage, tail[0])
    inside = {record.seq for record in tail}
    pinned = [record for record in tail if record.seq in pins]
    outside = [seq for seq in pins if seq not in inside]
    if outside:
        pinned = [*message_rows.several(connection, lineage, outside), *pinned]
    return Past(tail[-1], tail, context, pinned, summary)


def _summarised(
    connection: Connection, lineage: Lineage, head: MessageRecord, summary: Summary, pins: Sequence[int]
) -> Past:
    """The past of a path of which the summary leaves nothing over."""
    context = history_rows.context(connection, lineage, head)
    if head.message["role"] in ("system", "developer"):
        context = [*context, head]
    return Past(head, (), context, message_rows.several(connection, lineage, pins), summary)


def on_path(connection: Connection, standing: Standing) -> tuple[list[int], Summary | None]:
    """Return which pinned messages are on the path, and the latest summary of it, if there is one."""
    found = summary_rows.latest(connection, standing.lineage, standing.summary_turn)
    if not standing.pins and not found:
        return [], None
    positions = [position for _, position in standing.pins] + [summary.up_to_position for summary in found]
    path = history_rows.ancestors(connection, standing.lineage, standing.head, positions)
    pins = [seq for seq, position in standing.pins if path.get(position) == seq]
    valid = (summary for summary in found if path.get(summary.up_to_position) == summary.up_to_seq)
    return pins, next(valid, None)


def at_position(connection: Connection, lineage: Lineage, head: int, position: int) -> MessageRecord:
    """Return the message at a position of the path to message `head`.

    Raises:
        InvalidInput: the path has no such position.
    """
    seq = history_rows.ancestors(connection, lineage, head, [position]).get(position)
    if seq is None:
        raise InvalidInput(f"conversation {lineage.conversation_id} has no message at position {position}")
    (record,) = message_rows.several(connection, lineage, [seq])
    return record
