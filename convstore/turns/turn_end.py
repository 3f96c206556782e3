"""The end of a turn, in one transaction: store the reply, move the head, free the conversation, close the turn."""

from __future__ import annotations

import logging
from dataclasses import replace

from convstore.db.client_request_rows import ReplyMarks, set_reply
from convstore.db.connection import Connection
from convstore.db.delta_rows import delete_deltas
from convstore.db.head_rows import free_with_reply, take_late_numbers
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.message_rows import find_message
from convstore.db.message_writes import Place, insert_messages
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.turn_rows import find_turn
from convstore.db.turn_writes import close_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationNotFound, LeaseLost, ReplyInterrupted, TurnFailed
from convstore.messages.matching_form import add_to_digest
from convstore.messages.storable_text import to_column
from convstore.messages.token_counters import make_fallback_counter
from convstore.provider.error_texts import format_failure
from convstore.values.client_request import AskedPath
from convstore.values.identifiers import Seq
from convstore.values.results import Turn, TurnStatus
from convstore.values.turn_outcome import RunningTurn, TurnOutcome

_logger = logging.getLogger(__name__)

_NOTHING: frozenset[str] = frozenset()


def end_turn(work: UnitOfWork, turn: RunningTurn, outcome: TurnOutcome, *, has_deltas: bool) -> tuple[Turn, bool]:
    """Store how a turn ended, with its reply, and free its conversation; fenced by the turn's lease token.

    Args:
        has_deltas: whether deltas of the reply are stored: they have become a message, and are deleted.

    Returns:
        The turn, and whether it still held its conversation. If not, the reply is stored off the path.

    Raises:
        ConversationNotFound: the conversation or the turn no longer exists.
    """
    connection, key = work.connection, turn.key
    replies = outcome.completion.messages if outcome.completion is not None else ()
    limit_lock_wait(connection, key)
    position = turn.reply_position if outcome.moves_head and replies else None
    first_reply = free_with_reply(connection, key, turn.token, len(replies), position, work.now)
    is_held = first_reply is not None
    keep = _NOTHING
    ended: Turn | None = None
    if first_reply is None:
        ended = find_turn(connection, key, turn.seq)
        if ended is None or ended.started_at != turn.started_at:
            # Purged, perhaps created again under the same id, or replaced by an older state of the database.
            raise ConversationNotFound(f"conversation {key.id!r} no longer has turn {turn.seq}")
        if ended.status is outcome.status and ended.error == outcome.error:
            return ended, True  # by this very call: its commit had gone through when the connection broke
        keep = _list_kept_columns(ended, has_reply=bool(replies))
        first_reply = take_late_numbers(connection, key, len(replies), work.now)
        turn = _read_input_again(work, turn)
    # What was paid for must not be lost because the caller's counter fails.
    counting = replace(work, count_tokens=make_fallback_counter(work.count_tokens))
    insert_messages(counting, key, replies, Place(first_reply, turn.last_input, turn.seq, siblings=True))
    if has_deltas:
        delete_deltas(connection, key, turn.seq)
    if turn.asked is not None and replies:
        _note_reply(connection, turn, turn.asked, first_reply, outcome)
    output_seq: Seq | None = first_reply if replies else None
    closed = close_turn(work, turn, outcome, output_seq, keep=keep)
    # The row keeps what whoever took the conversation wrote about the turn; the returned turn says the same.
    return (closed if ended is None else replace(closed, status=ended.status, error=ended.error)), is_held


def _note_reply(connection: Connection, turn: RunningTurn, asked: AskedPath, seq: Seq, outcome: TurnOutcome) -> None:
    """Store how the reply to a client's own list of messages is found."""
    completion = outcome.completion
    assert completion is not None  # noqa: S101 (for the type checker: there is a reply)
    reply = completion.messages[0]
    digest = add_to_digest(asked.digest, reply) if asked.digest is not None else None
    tail = add_to_digest(asked.tail, reply) if asked.tail is not None else None
    # A server may give no id; then clients find the completion in the list.
    id = to_column(completion.response_id or f"chatcmpl-{turn.key.id}-{turn.seq}")
    set_reply(connection, turn.key, turn.seq, ReplyMarks(seq, digest, tail, id))


def _read_input_again(work: UnitOfWork, turn: RunningTurn) -> RunningTurn:
    """Return a turn that lost its conversation, with its input as it is now: it may have been redacted meanwhile."""
    lineage = read_stored_lineage(work.connection, turn.key)
    if turn.last_input is None or lineage is None:
        return turn
    return replace(turn, last_input=find_message(work.connection, lineage, turn.last_input.seq))


def _list_kept_columns(ended: Turn, *, has_reply: bool) -> frozenset[str]:
    """Return the columns that whoever took the conversation has written, and that stay."""
    was_stopped = ended.error is not None and ended.error.get("type") == "Stopped"
    # The partial reply that a stop from elsewhere kept may be on the path: it stays the turn's reply.
    keeps_output = ended.output_seq is not None and (was_stopped or not has_reply)
    return frozenset({"status", "error"} | ({"output_seq", "finish_reason"} if keeps_output else set()))


def check_ended_well(turn: Turn, *, is_held: bool, was_stopped: bool = False) -> Turn:
    """Return a turn that completed, or that its caller stopped; raise the error that any other end means.

    Raises:
        LeaseLost: another caller took the conversation before the reply came.
        ReplyInterrupted: the reply was cut off.
        TurnFailed: no reply came.
    """
    where = f"conversation {turn.conversation_id!r}, turn {turn.seq}"
    if not is_held:
        _logger.warning("conversation %s: turn %d lost its lease", turn.conversation_id, turn.seq)
        cause = "another caller took the conversation before this reply came"
        if (turn.error or {}).get("type") == "Stopped":
            cause = "the turn was stopped before this reply came"
        kept = "; the reply is stored off the path" if turn.message is not None else ""
        raise LeaseLost(f"{where}: {cause}{kept}", turn)
    if turn.status is TurnStatus.COMPLETED or was_stopped:
        return turn
    error = turn.error or {}
    problem = format_failure(error)
    if turn.status is TurnStatus.INTERRUPTED and error.get("type") == "Stopped":
        raise ReplyInterrupted(
            f"{where}: the turn was stopped before a reply came. The message is stored without a reply. Later calls "
            "leave it out",
            turn,
            turn.message,
        )
    if turn.status is TurnStatus.INTERRUPTED:
        raise ReplyInterrupted(
            f"{where}: the reply was cut off ({problem}). The partial reply is stored with the turn. Later calls leave "
            f"it out",
            turn,
            turn.message,
        )
    if "suspect" in error:
        problem = f"{problem}; probably because of {error['suspect']}"
        if str(error["suspect"]).startswith("message "):  # a stored one
            problem += ": go back before it (`undo`, `checkout`), or send less (`last`)"
    stop = "" if problem.endswith(("!", "?")) else "."
    raise TurnFailed(f"{where}: {problem}{stop} The message is stored without a reply. Later calls leave it out", turn)
