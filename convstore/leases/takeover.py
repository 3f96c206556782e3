"""Taking a conversation from a turn that no longer runs: its process died, or it was stopped from elsewhere."""

from __future__ import annotations

import logging

from convstore.db.delta_rows import delete_deltas, read_deltas
from convstore.db.dialect import is_sqlite
from convstore.db.head_rows import Head, keep_partial_reply
from convstore.db.lease_rows import Holder, free_row, interrupt_turn, read_holder, read_reply_parent
from convstore.db.message_rows import read_head
from convstore.db.message_writes import Place, insert_messages
from convstore.db.row_errors import conversation_locked
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationBusy
from convstore.leases.lease_watch import DEFAULT_LEASE_SECONDS, LEASES, has_ended
from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.messages.message import is_replayable
from convstore.values.identifiers import ConversationKey

_logger = logging.getLogger(__name__)


_ABANDONED = {
    "type": "Abandoned",
    "message": "the process that ran this turn ended, or lost its database, before the turn was over",
}
_STOPPED = {"type": "Stopped", "message": "stopped from elsewhere"}


def is_dead(work: UnitOfWork, holder: Holder) -> bool:
    """Return True if the conversation may be taken from a turn: its process died, or its lease ran out elsewhere.

    A process on this host that is known to live keeps its lease, however late it renews it. On SQLite, the first look
    at a lease of an unknown process begins a watch, and a later one finds that the lease has ended (`lease_watch`).
    """
    is_alive = work.is_alive(holder.token)
    if is_alive is not None:
        return not is_alive
    if not is_sqlite(work.connection):  # the server's clock wrote the expiry, and judges it
        return holder.has_expired
    watched = LEASES.measure(holder.token, holder.expires_at, work.began)
    return has_ended(holder.expires_at, _find_span(work, holder), work.now, watched)


def _find_span(work: UnitOfWork, holder: Holder) -> float:
    """Return how many seconds a lease lasts."""
    if holder.span_seconds is not None:
        return holder.span_seconds
    # An older release claimed it. It has the span of this store, if all stores have one, or the default.
    return max(work.lease_seconds, DEFAULT_LEASE_SECONDS)


def is_held(work: UnitOfWork, key: ConversationKey) -> bool:
    """Return True if a turn that may be alive holds the conversation. Only reads."""
    holder = read_holder(work.connection, key, work.now)
    return holder is not None and not is_dead(work, holder)


def free_from_dead_turn(work: UnitOfWork, key: ConversationKey, own_token: str | None = None) -> None:
    """Take the conversation from a turn that is dead, if one holds it.

    Args:
        own_token: the lease token of this call. A turn that holds the conversation with it is this call's own first
            try: its commit had succeeded, but the connection broke before the answer. Nobody works on that turn.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn that may be alive holds it.
    """
    holder = read_holder(work.connection, key, work.now)
    if holder is None:
        return
    if holder.token != own_token and not is_dead(work, holder):
        raise ConversationBusy(
            f"conversation {key.id!r} is busy: turn {holder.turn} is running; try again when it has ended, or `stop` it"
        )
    _logger.warning("conversation %s: taking it from turn %d, which died", key.id, holder.turn)
    _take(work, key, holder, _ABANDONED, keep_on_path=False)


def take_stopped(work: UnitOfWork, key: ConversationKey, holder: Holder) -> None:
    """End a turn that was asked to stop and did not; its partial text stays on the path."""
    _take(work, key, holder, _STOPPED, keep_on_path=True)
    _logger.warning("conversation %s: taking it from turn %d, which did not stop", key.id, holder.turn)


def _take(
    work: UnitOfWork, key: ConversationKey, holder: Holder, reason: dict[str, str], *, keep_on_path: bool
) -> None:
    """Free the conversation, and mark the turn as interrupted with the partial reply that its deltas hold."""
    so_far = ChunkAccumulator()
    for _, delta in read_deltas(work.connection, key, holder.turn):
        so_far.add(delta)
    partial = so_far.to_completion().messages[:1] if so_far.has_started else ()
    freed = free_row(work.connection, key, holder.token, len(partial))
    if freed is None:
        now = read_holder(work.connection, key, work.now)
        if now is not None and now.token == holder.token:
            raise conversation_locked(key)
        return  # it ended meanwhile
    first_seq, lineage = freed
    output_seq = None
    if partial:
        parent = read_head(work.connection, lineage, read_reply_parent(work.connection, key, holder.turn))
        (record,) = insert_messages(work, key, partial, Place(first_seq, parent, holder.turn))
        output_seq = record.seq
        if keep_on_path and is_replayable(partial[0]):
            keep_partial_reply(work.connection, key, Head(record.seq, record.position))
        delete_deltas(work.connection, key, holder.turn)
    interrupt_turn(work.connection, key, holder.turn, reason=reason, output_seq=output_seq, now=work.now)
