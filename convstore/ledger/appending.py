"""Appending: messages at the head, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from convstore.completions import Completion
from convstore.ledger import leases, messages, turns
from convstore.ledger.models import conversations as table
from convstore.messages import Message
from convstore.records import MessageRecord, TurnStatus

_KEY = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_STATE = select(table.c.next_seq, table.c.next_turn, table.c.head_seq, table.c.lease_token).where(
    *_KEY, table.c.deleted_at.is_(None)
)
_STATE_LOCKED = _STATE.with_for_update(skip_locked=True)
_MOVE_HEAD = (
    update(table)
    .where(*_KEY)
    .values(
        next_seq=bindparam("next"),
        next_turn=bindparam("turn"),
        head_seq=bindparam("head"),
        length=bindparam("position"),
        updated_at=bindparam("now"),
    )
)


def append(
    connection: Connection,
    owner: str,
    conversation_id: str,
    new: Sequence[Message],
    now: datetime,
    alive: leases.Alive,
    completion: Completion | None = None,
    key: str | None = None,
    digest: bytes | None = None,
) -> list[MessageRecord]:
    """Add messages at the head, and return them where they now stand.

    With a completion, whose facts are kept, or an idempotency key, it is a turn of its own.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: a turn is running.
        IdempotencyMismatch: the key was used for something else.
    """
    if key is not None and digest is not None:
        done = turns.by_key(connection, owner, conversation_id, key, digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return messages.of_turn(connection, owner, done)
    where = {"key_owner": owner, "key_id": conversation_id}
    statement = _STATE if connection.dialect.name == "sqlite" else _STATE_LOCKED
    state = connection.execute(statement, where).one_or_none()
    if state is None or state.lease_token is not None:
        leases.free(connection, owner, conversation_id, now, alive)
        state = connection.execute(statement, where).one_or_none()
    if state is None or state.lease_token is not None:  # a turn may have taken it between the two looks
        raise leases.locked(conversation_id)
    head = messages.at(connection, owner, conversation_id, state.head_seq)
    turn = state.next_turn if completion is not None or key is not None else None
    added = messages.add(
        connection, owner, conversation_id, new, first_seq=state.next_seq, after=head, turn=turn, now=now
    )
    last = added[-1]
    if turn is not None:
        turns.insert_ended(
            connection,
            owner,
            conversation_id,
            turn,
            base_seq=state.head_seq,
            inputs=(state.next_seq, last.seq) if completion is None else None,
            output_seq=last.seq if completion is not None else None,
            completion=completion,
            key=key,
            digest=digest,
            now=now,
        )
    connection.execute(
        _MOVE_HEAD,
        {
            **where,
            "next": state.next_seq + len(new),
            "turn": state.next_turn + (turn is not None),
            "head": last.seq,
            "position": last.position,
            "now": now,
        },
    )
    return added
