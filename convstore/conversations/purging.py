"""Purging: removing conversations for good, each in one transaction.

Forks keep what they share of a purged conversation: it is copied to them first, under the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from convstore.db import purgeable_ids, unused_attachments
from convstore.db.attachment_rows import read_sizes
from convstore.db.descendants import Descendant, list_descendants
from convstore.db.erased_rows import ErasableRow, count_rows, lock_erasable, read_digest, sum_tokens
from convstore.db.erased_terms import check_erasable
from convstore.db.erasure_steps import mark_steps, overwrite_deleted
from convstore.db.inherited_rows import count_shared
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.purgeable_ids import AgeLimit
from convstore.db.purged_conversation import find_shared, list_heirs, remove_conversation
from convstore.db.tables import messages, summaries, turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationBusy, ConversationNotFound
from convstore.leases.takeover import free_from_dead_turn
from convstore.values.identifiers import ConversationKey
from convstore.values.purge_receipt import KeptByFork, PurgeReceipt


@dataclass(frozen=True, slots=True)
class PurgeTerms:
    """How conversations are purged."""

    keep_digest: bool = False
    """Whether the receipt has the digest of the last message."""
    keep_tombstone: bool = True
    """Whether imports leave the conversation out from now on."""
    takes_all: bool = False
    """Whether all conversations of the owner are purged, so that no damaged row may be in the way."""
    only_older: tuple[AgeLimit, ...] = ()
    """Purge it only if it is as old as one of these says; (): in any case."""
    limits_wait: bool = True
    """Whether the wait for locks of others is limited: not in the caller's own transaction."""


def plan_purge(work: UnitOfWork, key: ConversationKey, terms: PurgeTerms, gone: Collection[str] = ()) -> PurgeReceipt:
    """Return what `purge` would remove; only read.

    Args:
        gone: the ids of conversations that will have been purged before.

    Raises:
        ConversationNotFound: the owner has no such conversation, not even a deleted one.
    """
    row = lock_erasable(work.connection, key, locks=False)
    kept_by = tuple(
        KeptByFork(fork.key.id, count_shared(work.connection, key, find_shared(row.lineage, fork)))
        for fork in list_heirs(key, list_descendants(work.connection, key, skips_damaged=terms.takes_all), gone)
    )
    digests = unused_attachments.find_digests(work.connection, key)
    if digests and not any(kept.messages for kept in kept_by):
        digests = unused_attachments.find_unused(work.connection, key.owner, digests, without={key.id, *gone})
    elif digests:
        digests = set()  # some of them stay with the forks; which, the purge itself says
    sizes = read_sizes(work.connection, key.owner, digests) if digests else {}
    return _make_receipt(work, key, row, terms, None, kept_by, (len(sizes), sum(sizes.values())))


def purge(work: UnitOfWork, key: ConversationKey, terms: PurgeTerms) -> PurgeReceipt | ConversationBusy | None:
    """Remove a conversation and all that belongs to it, and return what was removed.

    Return an error if a turn of it, or of one of its forks, is running: nothing was removed. It is not raised, because
    a caller does not wait for a turn as it waits for another transaction. Return None if it was changed since it was
    found, so that it is not old enough.

    Raises:
        ConversationNotFound: the owner has no such conversation, not even a deleted one.
        ConversationBusy: another transaction holds the conversation, or one of its forks.
        DamagedRow: its lineage, or the lineage of a fork, cannot be decoded.
    """
    connection = work.connection
    if terms.limits_wait:
        limit_lock_wait(connection)
    check_erasable(connection)
    overwrite_deleted(connection)
    if terms.only_older:
        lock_erasable(connection, key)
        if not purgeable_ids.is_older(connection, key, terms.only_older):
            return None
    try:
        row = _lock(work, key)
        descendants = _lock_descendants(work, key, terms)
    except _TurnRunning as error:
        return ConversationBusy(str(error))
    if row.damage is not None and descendants:
        raise row.damage
    row = replace(row, source_kind=keep_known_kind(row.source_kind))
    receipt = _make_receipt(work, key, row, terms, work.now, (), (0, 0))
    removed = remove_conversation(connection, key, row, descendants, work.now, keeps_tombstone=terms.keep_tombstone)
    return replace(
        receipt,
        attachments=removed.attachments,
        attachment_bytes=removed.attachment_bytes,
        kept_by=removed.kept_by,
    )


def keep_known_kind(kind: str | None) -> str | None:
    """Return the kind of file that a conversation was imported from; None if a caller may have chosen the text."""
    from convstore.transfer.reading import READABLE_KINDS  # most commands need it not

    return kind if kind in READABLE_KINDS or kind == "custom" else None


class _TurnRunning(Exception):
    """A turn is running."""


def _lock(work: UnitOfWork, key: ConversationKey) -> ErasableRow:
    """Lock a conversation; end its turn if the process of the turn has died.

    Raises:
        _TurnRunning: a turn of it is running.
    """
    row = lock_erasable(work.connection, key)
    if row.is_held and not row.is_deleted:
        try:
            free_from_dead_turn(work, key)
        except ConversationBusy as error:
            raise _TurnRunning(str(error)) from error
        row = lock_erasable(work.connection, key)
    return row


def _lock_descendants(work: UnitOfWork, key: ConversationKey, terms: PurgeTerms) -> list[Descendant]:
    """Lock all forks of a conversation and their forks, and return them.

    A fork can only be made of a conversation that nobody has locked so. So there are no others when all that were found
    are locked.
    """
    locked: set[ConversationKey] = set()
    while True:
        found = list_descendants(work.connection, key, skips_damaged=terms.takes_all)
        new = [one.key for one in found if one.key not in locked]
        if not new:
            return found
        for fork in new:
            with suppress(ConversationNotFound):  # somebody has just purged it: it is not found again
                _lock(work, fork)
            locked.add(fork)


def _make_receipt(
    work: UnitOfWork,
    key: ConversationKey,
    row: ErasableRow,
    terms: PurgeTerms,
    purged_at: datetime | None,
    kept_by: tuple[KeptByFork, ...],
    attachments: tuple[int, int],
) -> PurgeReceipt:
    counts = count_rows(work.connection, key)
    prompt_tokens, completion_tokens = sum_tokens(work.connection, key)
    digest = read_digest(work.connection, key, row.head_seq) if terms.keep_digest else None
    return PurgeReceipt(
        owner=key.owner,
        conversation_id=key.id,
        purged_at=purged_at,
        messages=counts[messages.name],
        turns=counts[turns.name],
        summaries=counts[summaries.name],
        attachments=attachments[0],
        attachment_bytes=attachments[1],
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        kept_by=kept_by,
        digest=digest.hex() if digest is not None else None,
    )


def list_older(work: UnitOfWork, owner: str, limits: Sequence[AgeLimit]) -> list[str]:
    """Return the ids of conversations that are as old as one of the limits says; forks come before their origins."""
    return purgeable_ids.list_older(work.connection, owner, limits)


def list_all(work: UnitOfWork, owner: str) -> list[str]:
    """Return the ids of all conversations of an owner, deleted ones too; forks come before their origins."""
    return purgeable_ids.list_all(work.connection, owner)


def erase_owner(work: UnitOfWork, owner: str) -> bool:
    """Remove what an owner has besides conversations; return False if there are conversations, and nothing is removed.

    These are attachments, sums of usage, tombstones, periods of retention, and keys of the service.
    """
    if purgeable_ids.list_all(work.connection, owner):
        return False
    overwrite_deleted(work.connection)
    after = b""
    while digests := unused_attachments.list_digests(work.connection, owner, after):
        unused_attachments.delete_unused(work.connection, owner, digests)
        after = digests[-1]
    purgeable_ids.delete_of_owner(work.connection, owner, work.now)
    mark_steps(work.connection, work.now)
    return True
