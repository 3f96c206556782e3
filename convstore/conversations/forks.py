"""Forking a conversation: a new one that shares the past of another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from convstore.db.ancestors import find_ancestors, find_message_at
from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import NewFork, hold_origin, insert_fork
from convstore.db.head_rows import ConversationState, Head, check_expected_head, read_state
from convstore.db.message_rows import read_messages
from convstore.db.search_index import index_title
from convstore.db.summary_rows import read_summaries
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DamagedRow
from convstore.messages.first_title import MOST_POSITION, find_title
from convstore.values.identifiers import NO_POSITION, NO_SEQ, ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import UNCHANGED, Conversation, Given


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What a caller asks of `fork`."""

    new_id: str
    name: str | None
    title: Given[str]
    at: Position | Head | None = None
    """Last position to share, or the last message, on a path or off it; None: the whole path."""
    expected_head: Seq | None = None


def fork(work: UnitOfWork, key: ConversationKey, request: ForkRequest) -> Conversation:
    """Create a conversation that shares the past of this one. One row is written, however long the past is.

    Raises:
        InvalidInput: the path has no such position.
        ConversationExists: the new id or the name is taken.
        ConversationBusy: another transaction purges the conversation, or one that it was forked from.
        HeadMoved: the head is not the expected one.
    """
    hold_origin(work.connection, key)
    state = read_state(work.connection, key)
    check_expected_head(key, state.head.seq, request.expected_head)
    origin = get_conversation(work.connection, key)
    head = state.head if request.at is None else _find_head(work, state, request.at)
    # The summary and pins of the shared past: a greater number here means another message in the fork.
    summaries = read_summaries(work.connection, state.lineage, state.summary_turn)
    new = NewFork(
        lineage=state.lineage.fork(
            ConversationKey(key.owner, request.new_id), head.seq, TurnNumber(state.next_turn - 1)
        ),
        name=request.name,
        title=request.title,
        head=head,
        next_turn=state.next_turn,
        pins=[(seq, position) for seq, position in state.pins if seq <= head.seq],
        inherited_model=origin.model,
        summary_turn=next((summary.turn for summary in summaries if summary.up_to_seq <= head.seq), None),
        made_title=_make_title(work, state, head),
    )
    made = insert_fork(work.connection, key, new, work.now)
    index_title(work.connection, new.lineage.key, made.created_at, made.given_title, made.name)
    return made


def _make_title(work: UnitOfWork, state: ConversationState, head: Head) -> Given[str]:
    """Return the title that the first messages of the path to `head` make; None: they make none, or are damaged.

    Return UNCHANGED, and read nothing, if they are also the first messages of the origin.
    """
    if int(head.seq) == int(head.position) and head.position >= MOST_POSITION:  # no message is left out on the path
        return UNCHANGED
    places = [Position(place) for place in range(1, min(head.position, MOST_POSITION) + 1)]
    with suppress(DamagedRow):
        seqs = find_ancestors(work.connection, state.lineage, head.seq, places)
        return find_title([record.message for record in read_messages(work.connection, state.lineage, seqs.values())])
    return None


def _find_head(work: UnitOfWork, state: ConversationState, at: Position | Head) -> Head:
    if isinstance(at, Head):
        return at
    if at == state.head.position:
        return state.head
    if at == NO_POSITION:
        return Head(NO_SEQ, NO_POSITION)
    return Head(find_message_at(work.connection, state.lineage, state.head.seq, at), at)
