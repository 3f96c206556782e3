"""Appending: messages at the head, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, update

from convstore.db import head_rows, lease_rows, message_rows, turn_rows, turn_writes
from convstore.db.fork_sharing import Lineage
from convstore.db.tables import conversations as table
from convstore.messages.codec import Message
from convstore.messages.completion import Completion
from convstore.messages.token_estimate import Counter, estimate
from convstore.values.results import MessageRecord, TurnStatus

_KEY = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
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
    alive: lease_rows.Alive,
    completion: Completion | None = None,
    cost: float | None = None,
    key: str | None = None,
    digest: bytes | None = None,
    expected_head: int | None = None,
    count: Counter = estimate,
) -> list[MessageRecord]:
    """Add messages at the head, and return them where they now stand.

    With a completion, whose facts are kept, or an idempotency key, it is a turn of its own.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: a turn is running.
        HeadMoved: the head is not the expected one.
        IdempotencyMismatch: the key was used for something else.
    """
    if key is not None and digest is not None:
        done = turn_rows.by_key(connection, owner, conversation_id, key, digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return message_rows.of_turn(connection, Lineage(owner, conversation_id), done)
    state = head_rows.take(connection, owner, conversation_id, now, alive)
    lease_rows.check_head(conversation_id, state.head, expected_head)
    head = message_rows.at(connection, state.lineage, state.head)
    turn = state.next_turn if completion is not None or key is not None else None
    added = message_rows.add(
        connection, state.lineage, new, first_seq=state.next_seq, after=head, turn=turn, now=now, count=count
    )
    last = added[-1]
    if turn is not None:
        turn_writes.insert_ended(
            connection,
            owner,
            conversation_id,
            turn,
            base_seq=state.head,
            inputs=(state.next_seq, last.seq) if completion is None else None,
            output_seq=last.seq if completion is not None else None,
            completion=completion,
            cost=cost,
            key=key,
            digest=digest,
            now=now,
        )
    connection.execute(
        _MOVE_HEAD,
        {
            "key_owner": owner,
            "key_id": conversation_id,
            "next": state.next_seq + len(new),
            "turn": state.next_turn + (turn is not None),
            "head": last.seq,
            "position": last.position,
            "now": now,
        },
    )
    return added
