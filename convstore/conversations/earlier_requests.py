"""Find the request that a client repeats: by its idempotency key, or by its body.

The official clients repeat a POST without being asked, and without a key, after a lost answer. They count the
repetitions in a header. So a request with such a count, and the same body as one of the last ten minutes, is that one.
"""

from __future__ import annotations

from datetime import timedelta

from convstore.db.client_request_rows import (
    find_by_body,
    find_by_idempotency,
    free_idempotency_key,
    take_request,
)
from convstore.db.lease_rows import read_holder
from convstore.db.turn_rows import find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationNotFound, IdempotencyMismatch
from convstore.leases.takeover import is_dead
from convstore.values.client_request import ClientRequest, SentBody
from convstore.values.identifiers import ConversationKey, TurnNumber
from convstore.values.results import Turn, TurnStatus

_REPEATED_WITHIN = timedelta(minutes=10)
_JOINED = (TurnStatus.RUNNING, TurnStatus.COMPLETED)


def find_earlier(work: UnitOfWork, owner: str, asked: bytes, body: SentBody, *, is_repetition: bool) -> Turn | None:
    """Return the turn that a request repeats: running or completed. None: it is new, or the first try failed.

    Args:
        asked: the digest of its messages.
        is_repetition: whether the client says that it sends the request once more.

    Raises:
        IdempotencyMismatch: the idempotency key was used for another body.
    """
    if body.idempotency is not None:
        request = find_by_idempotency(work.connection, owner, body.idempotency)
        if request is None:
            return None
        if request.body_digest not in (None, body.digest):  # None: a text in it was redacted
            raise IdempotencyMismatch(
                "this Idempotency-Key was used with another body; use a new key for a new request"
            )
        turn = _find_joined(work, request)
        if turn is None:
            free_idempotency_key(work.connection, request.key, request.turn)
        return turn
    if not is_repetition or body.digest is None:
        return None
    for request in find_by_body(work.connection, owner, asked, body, work.now - _REPEATED_WITHIN):
        turn = _find_joined(work, request)
        if turn is not None and take_request(work.connection, request.key, request.turn, work.now):
            return turn
    return None


def _find_joined(work: UnitOfWork, request: ClientRequest) -> Turn | None:
    """Return the turn of a request if it has completed, or a living process runs it."""
    turn = find_living_turn(work, request.key, request.turn)
    return turn if turn is not None and turn.status in _JOINED else None


def find_living_turn(work: UnitOfWork, key: ConversationKey, seq: TurnNumber) -> Turn | None:
    """Return a turn that is over, or that a living process runs; None if there is no such turn."""
    turn = find_turn(work.connection, key, seq)
    if turn is None or turn.status is not TurnStatus.RUNNING:
        return turn
    try:
        holder = read_holder(work.connection, key, work.now)
    except ConversationNotFound:  # it was deleted: nobody would notice that the process died
        return None
    if holder is not None and holder.turn == seq and not is_dead(work, holder):
        return turn
    turn = find_turn(work.connection, key, seq)  # it may have ended between the two looks
    return turn if turn is not None and turn.status is not TurnStatus.RUNNING else None
