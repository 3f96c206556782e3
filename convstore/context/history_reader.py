"""Reads what a window may need of the past, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convstore.context.window import Past, TokenScale
from convstore.db.ancestors import find_ancestors
from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT
from convstore.db.fork_sharing import Lineage
from convstore.db.head_rows import ConversationState, Pin
from convstore.db.history_rows import Reach, read_context_messages, read_path, read_path_end
from convstore.db.message_rows import read_head, read_messages
from convstore.db.summary_rows import read_summaries
from convstore.db.turn_rows import read_token_samples, read_window
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DamagedRow
from convstore.messages.token_factor import learn_token_factor
from convstore.values.identifiers import Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Summary
from convstore.values.window_options import WindowOptions


@dataclass(frozen=True, slots=True)
class PathEnd:
    """The end of a path, and what is known of the path without reading it."""

    lineage: Lineage
    head: Seq
    pins: Sequence[Pin] = ()
    summary_turn: TurnNumber | None = None
    position: Position | None = None
    """The position of the head, if it is known."""


def read_token_scale(
    work: UnitOfWork, lineage: Lineage, options: WindowOptions, request: Mapping[str, Any]
) -> TokenScale:
    """Return how tokens are counted for a request's model. Without `max_context`, no turn is read."""
    if options.max_context is None:
        return TokenScale(work.count_tokens)
    samples = read_token_samples(work.connection, lineage.key, request["model"])
    return TokenScale(work.count_tokens, learn_token_factor(samples))


def read_past(
    connection: Connection, end: PathEnd, options: WindowOptions, scale: TokenScale, *, continues: bool
) -> Past:
    """Return the end of the path that may be sent, and the earlier messages that are always sent.

    Only the rows that the window can hold are read, however long the path is. Without a limit, the whole path is read.

    Raises:
        DamagedRow: a message that is needed is missing or cannot be decoded.
    """
    lineage, head = end.lineage, end.head
    if not options.history:
        return Past(read_head(connection, lineage, head))
    pins, summary = find_pins_and_summary(connection, end)
    if options.last is None and options.max_context is None and summary is None:
        path = read_path(connection, lineage, head, position=end.position)
        return Past(path[-1] if path else None, path)
    reach = Reach(
        turns=options.last + continues if options.last is not None else NO_LIMIT,
        tokens=scale.to_counted(options.max_context) if options.max_context is not None else NO_LIMIT,
        after_position=summary.up_to_position if summary is not None else 0,
    )
    tail = read_path_end(connection, lineage, head, reach)
    if not tail:
        return Past()
    if summary is not None and tail[-1].position <= summary.up_to_position:
        return _read_summarised_past(connection, lineage, tail[-1], summary, pins)
    context = read_context_messages(connection, lineage, tail[0])
    inside = {record.seq for record in tail}
    pinned = [record for record in tail if record.seq in pins]
    outside = [seq for seq in pins if seq not in inside]
    if outside:
        pinned = [*read_messages(connection, lineage, outside), *pinned]
    return Past(tail[-1], tail, context, pinned, summary, _find_begun(connection, lineage, tail, options))


def _find_begun(
    connection: Connection, lineage: Lineage, tail: Sequence[MessageRecord], options: WindowOptions
) -> Seq | None:
    """Return where the window of the latest reply began, if the next one shall begin there too."""
    if not options.keeps_beginning:
        return None
    turns = (record.turn for record in reversed(tail) if record.message["role"] == "assistant")
    turn = next((turn for turn in turns if turn is not None), None)
    try:
        report = read_window(connection, lineage, turn) if turn is not None else None
    except DamagedRow:  # `turns` and `db verify` name it; the window can be cut without it
        return None
    if report is None or report.options.max_context != options.max_context:
        return None
    return report.from_seq


def _read_summarised_past(
    connection: Connection, lineage: Lineage, head: MessageRecord, summary: Summary, pins: Sequence[Seq]
) -> Past:
    """Return the past of a path that the summary covers whole."""
    context = read_context_messages(connection, lineage, head)
    if head.message["role"] in ("system", "developer"):
        context = [*context, head]
    return Past(head, (), context, read_messages(connection, lineage, pins), summary)


def find_pins_and_summary(connection: Connection, end: PathEnd) -> tuple[list[Seq], Summary | None]:
    """Return which pinned messages are on the path, and its latest summary or None."""
    summaries = read_summaries(connection, end.lineage, end.summary_turn)
    if not end.pins and not summaries:
        return [], None
    positions = [position for _, position in end.pins] + [summary.up_to_position for summary in summaries]
    path = find_ancestors(connection, end.lineage, end.head, positions)
    pins = [seq for seq, position in end.pins if path.get(position) == seq]
    valid = (summary for summary in summaries if path.get(summary.up_to_position) == summary.up_to_seq)
    return pins, next(valid, None)


def find_summary(connection: Connection, state: ConversationState) -> Summary | None:
    """Return the latest summary of a conversation's current path, or None."""
    end = PathEnd(state.lineage, state.head.seq, summary_turn=state.summary_turn)
    return find_pins_and_summary(connection, end)[1]
