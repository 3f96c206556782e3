"""Remove a conversation that was locked: give forks their copy, and delete all that belongs to it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from convstore.db import tombstone_rows, unused_attachments
from convstore.db.connection import Connection
from convstore.db.descendants import (
    Descendant,
    forget_copied_titles,
    forget_titles,
    leave_out,
    list_descendants,
)
from convstore.db.erased_rows import ErasableRow, delete_rows, find_titling, forget_sums, lock_erasable
from convstore.db.erased_terms import remove_terms
from convstore.db.erasure_steps import mark_steps
from convstore.db.fork_sharing import Lineage, Origin
from convstore.db.inherited_rows import Inheritance, copy_to_fork
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.secret_places import read_kept_message
from convstore.errors import DamagedRow
from convstore.messages.message import extract_text
from convstore.values.identifiers import NO_SEQ, ConversationKey, TurnNumber
from convstore.values.purge_receipt import KeptByFork
from convstore.values.results import ErasureReason


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed besides rows of the conversation, and what forks keep."""

    kept_by: tuple[KeptByFork, ...]
    attachments: int
    attachment_bytes: int


def list_forks(key: ConversationKey, descendants: Sequence[Descendant]) -> list[Descendant]:
    """Return the descendants that were forked from the conversation itself."""
    return [one for one in descendants if one.origin.conversation_id == key.id]


def list_heirs(key: ConversationKey, descendants: Sequence[Descendant], gone: Collection[str]) -> list[Descendant]:
    """Return the descendants that would keep messages of the conversation, with what they share of it.

    Args:
        descendants: as `list_descendants` returns them.
        gone: the ids of conversations that will have been purged before: their forks share what they shared.
    """
    shared: dict[str, Origin] = {}
    heirs = []
    for one in descendants:
        origin = one.origin
        if origin.conversation_id != key.id:
            through = shared.get(origin.conversation_id)
            if through is None:
                continue  # it is a fork of a conversation that keeps its own copy
            origin = replace(through, up_to_seq=min(through.up_to_seq, origin.up_to_seq))
        if one.key.id in gone:
            shared[one.key.id] = origin
        else:
            heirs.append(replace(one, origin=origin))
    return heirs


def find_shared(lineage: Lineage, fork: Descendant) -> Inheritance:
    """Return what a fork shares of the rows of its origin.

    Args:
        lineage: the origin's.
    """
    before = next(iter((*lineage.origins, *lineage.far)), None)
    return Inheritance(
        after_seq=before.up_to_seq if before is not None else NO_SEQ,
        after_turn=before.up_to_turn if before is not None else TurnNumber(0),
        up_to_seq=fork.origin.up_to_seq,
        up_to_turn=fork.origin.up_to_turn,
    )


def remove_conversation(
    connection: Connection,
    key: ConversationKey,
    row: ErasableRow,
    descendants: Sequence[Descendant],
    now: datetime,
    *,
    keeps_tombstone: bool,
) -> Removed:
    """Remove a conversation and all that belongs to it. The caller has locked it and its descendants.

    Args:
        descendants: as `list_descendants` returns them.
        keeps_tombstone: whether imports leave the conversation out from now on.
    """
    kept_by: list[KeptByFork] = []
    for fork in list_forks(key, descendants):
        copied = copy_to_fork(connection, key, fork.key.id, find_shared(row.lineage, fork))
        kept_by.append(KeptByFork(fork.key.id, copied))
    titling = find_titling(connection, key)
    forget_titles(connection, descendants, row.made_title, titling)
    if descendants and titling is not None and row.title is not None:
        with suppress(DamagedRow, *DECODING_ERRORS):  # nobody knows what a damaged message says
            message = read_kept_message(connection, key, titling)
            text = extract_text(message) if message is not None else ""
            forget_copied_titles(connection, descendants, row.title, titling, text)
    leave_out(connection, row.lineage, descendants)
    forget_sums(connection, key)
    remove_terms(connection, key, row)
    digests = unused_attachments.find_digests(connection, key)
    delete_rows(connection, key)
    number, size = unused_attachments.delete_unused(connection, key.owner, digests)
    if keeps_tombstone:
        tombstone_rows.put_tombstone(connection, key, ErasureReason.PURGED, row.source_kind, now)
    mark_steps(connection, now)
    return Removed(tuple(kept_by), number, size)


def remove_with_descendants(connection: Connection, key: ConversationKey, now: datetime) -> None:
    """Remove a conversation and all that was forked from it, from a database that nobody else uses."""
    descendants = list_descendants(connection, key)
    for one in (*(fork.key for fork in reversed(descendants)), key):
        remove_conversation(connection, one, lock_erasable(connection, one), (), now, keeps_tombstone=False)


def remove_alone(connection: Connection, key: ConversationKey, now: datetime) -> None:
    """Remove a conversation from a database that nobody else uses; its forks keep their copy."""
    row, descendants = lock_erasable(connection, key), list_descendants(connection, key)
    remove_conversation(connection, key, row, descendants, now, keeps_tombstone=False)
