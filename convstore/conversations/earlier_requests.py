"""Find the request that a client repeats: by its idempotency key, or by its body.

The official clients repeat a POST without being asked, and without a key, after a lost answer. They count the
repetitions in a header. So a request with such a count, and the same body as one of the last ten minutes, is that one.
"""

from __future__ import annotations

from datetime import timedelta

from convstore.db.client_request_rows import (
    RequestFinder,
    find_by_asked,
    find_by_idempotency,
    free_idempotency_key,
    take_request,
)
from convstore.db.turn_rows import find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import IdempotencyMismatch
from convstore.values.client_request import ClientRequest, SentBody
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
    earlier = find_by_asked(work.connection, RequestFinder(owner, body.sender), asked)
    for request in sorted(earlier, key=lambda one: (one.created_at, one.turn)):
        is_same = request.body_digest == body.digest and work.now - request.created_at <= _REPEATED_WITHIN
        if not is_same or request.is_taken:
            continue
        turn = _find_joined(work, request)
        if turn is not None and take_request(work.connection, request.key, request.turn, work.now):
            return turn
    return None


def _find_joined(work: UnitOfWork, request: ClientRequest) -> Turn | None:
    turn = find_turn(work.connection, request.key, request.turn)
    return turn if turn is not None and turn.status in _JOINED else None
