"""Claiming a conversation: for a turn, under a lease; or for one transaction, under a row lock."""

from __future__ import annotations

from convstore.db.head_rows import ConversationState, check_expected_head, lock_state
from convstore.db.lease_rows import Claim, Lease, claim_row
from convstore.db.row_errors import conversation_locked
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.takeover import free_from_dead_turn
from convstore.values.identifiers import ConversationKey, Seq


def claim_conversation(
    work: UnitOfWork, key: ConversationKey, lease: Lease, count: int, *, made_title: str | None
) -> Claim:
    """Claim a conversation for a turn, with `count` numbers for its messages.

    If the process of the running turn has died, that turn is marked as interrupted first.

    Args:
        made_title: the title that the messages make, if they are the first; None: they make none.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: another turn holds it.
    """
    claim = claim_row(work.connection, key, lease, count, work.now, made_title=made_title)
    if claim is None:
        free_from_dead_turn(work, key, own_token=lease.token)
        claim = claim_row(work.connection, key, lease, count, work.now, made_title=made_title)
    if claim is None:
        raise conversation_locked(key)
    return claim


def lock_conversation(work: UnitOfWork, key: ConversationKey, expected_head: Seq | None = None) -> ConversationState:
    """Return the state of a conversation, and keep others from writing to it until the transaction ends.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn is running, or another transaction is writing to it.
        HeadMoved: the head is not the expected one.
    """
    state = lock_state(work.connection, key)
    if state is None or state.is_held:
        free_from_dead_turn(work, key)
        state = lock_state(work.connection, key)
    if state is None or state.is_held:  # a turn may have claimed it between the two looks
        raise conversation_locked(key)
    check_expected_head(key, state.head.seq, expected_head)
    return state
