"""Appending messages at the head without a model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from convstore.db.fork_sharing import Lineage
from convstore.db.head_rows import Head, append_at_head
from convstore.db.idempotency_keys import find_turn_by_key
from convstore.db.message_rows import read_appended, read_head
from convstore.db.message_writes import Place, insert_messages
from convstore.db.transactions import Transactions
from convstore.db.turn_writes import insert_ended_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.claims import lock_conversation
from convstore.leases.takeover import is_held
from convstore.leases.waiting import repeat_while_busy
from convstore.messages.caller_input import parse_append_items
from convstore.messages.codec import digest
from convstore.messages.completion import Completion
from convstore.messages.first_title import MOST_POSITION, find_title
from convstore.messages.message import Message
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber
from convstore.values.results import MessageRecord, TurnStatus
from convstore.values.steps import DatabaseWork, Steps
from convstore.values.turn_outcome import EndedTurn, TurnOutcome


@dataclass(frozen=True, slots=True)
class Addition:
    """Messages to append."""

    messages: Sequence[Message]
    completion: Completion | None
    """The completion that the message comes from; the facts about it are kept as a turn."""
    expected_head: Seq | None
    idempotency_key: str | None
    input_digest: bytes | None


def make_addition(items: Sequence[object], idempotency_key: str | None, expected_head: Seq | None) -> Addition:
    """Return what a caller asks to append.

    Raises:
        InvalidMessage: one of the items is not a message, or a completion is not alone.
    """
    messages, completion = parse_append_items(items)
    input_digest = digest(b"", {"append": messages}) if idempotency_key is not None else None
    return Addition(messages, completion, expected_head, idempotency_key, input_digest)


def append_when_free(
    transactions: Transactions, key: ConversationKey, addition: Addition, seconds: float
) -> Steps[list[MessageRecord]]:
    """Append messages; wait first if a turn is running.

    Args:
        seconds: how long to wait at most; in the caller's own transaction, it does not wait.
    """
    seconds = seconds if transactions.may_wait else 0.0
    # An idempotency key makes the unit of work repeatable: done again, it finds its own turn.
    write = transactions.write if addition.idempotency_key is None else transactions.write_repeatable
    attempt = DatabaseWork(partial(write, append, key, addition))
    holds = DatabaseWork(partial(transactions.read, is_held, key))
    records: list[MessageRecord] = yield from repeat_while_busy(attempt, holds, seconds, (transactions.identity, key))
    return records


def append(work: UnitOfWork, key: ConversationKey, addition: Addition) -> list[MessageRecord]:
    """Add messages at the head, and return them with their places.

    With a completion or an idempotency key, the addition is a turn.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn is running.
        HeadMoved: the head is not the expected one.
        IdempotencyMismatch: the key was used with other input.
    """
    connection, completion = work.connection, addition.completion
    if addition.idempotency_key is not None and addition.input_digest is not None:
        done = find_turn_by_key(connection, key, addition.idempotency_key, addition.input_digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return read_appended(connection, Lineage(key), done)
    state = lock_conversation(work, key, addition.expected_head)
    head = read_head(connection, state.lineage, state.head.seq)
    turn = state.next_turn if completion is not None or addition.idempotency_key is not None else None
    added = insert_messages(work, key, addition.messages, Place(state.next_seq, head, turn))
    last = added[-1]
    if turn is not None:
        ended = EndedTurn(
            key=key,
            seq=turn,
            base_seq=state.head.seq,
            request={},
            first_input_seq=state.next_seq if completion is None else None,
            last_input_seq=last.seq if completion is None else None,
            output_seq=last.seq if completion is not None else None,
            idempotency_key=addition.idempotency_key,
            input_digest=addition.input_digest,
        )
        insert_ended_turn(work, ended, TurnOutcome(TurnStatus.COMPLETED, completion, moves_head=True))
    next_turn = TurnNumber(state.next_turn + (turn is not None))
    title = find_title(addition.messages) if state.head.position < MOST_POSITION else None
    append_at_head(connection, key, Head(last.seq, last.position), next_turn, work.now, made_title=title)
    return added
