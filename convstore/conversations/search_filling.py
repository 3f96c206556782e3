"""Adding messages to the search index that were stored without it: before there was one, or because they are long.

A batch is read in one transaction and added in another, so that no transaction lasts while many words are split. It may
end after any batch, and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from convstore.db import search_backlog, search_gaps, search_index, search_rows
from convstore.db.search_index import IndexedText, IndexKind
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.search.folded_text import fold
from convstore.search.searched_text import extract_searched_text
from convstore.search.terms import find_terms
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq

_TEXTS_AT_ONCE, _CONVERSATIONS_AT_ONCE = 300, 50
"""How much one transaction adds: on SQLite, others wait for it."""

_LISTED_AT_ONCE = 10_000  # conversations


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of a conversation to be added to the index."""

    key: ConversationKey
    from_seq: Seq
    next_seq: Seq | None
    """The first message of the batch after this one; None: this is the conversation's last."""
    texts: list[IndexedText]
    redactions: tuple[int, datetime | None]
    """How many messages of the conversation were redacted, and when the last one, as far as the texts show it."""
    names: tuple[str | None, ...] | None
    """The title and the name of the conversation; None: they are not in this batch."""


def fill_index(
    transactions: Transactions,
    owner: str,
    *,
    seconds: float | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Add the messages of an owner that the index does not have yet; return how many were added.

    Args:
        seconds: begin no batch after so many; None: go on to the end.
        on_progress: called after each batch with the number added so far.
    """
    began, added = time.monotonic(), 0
    while waiting := transactions.read(list_waiting, owner):
        while waiting:
            batches, done = transactions.read(read_batches, owner, waiting)
            added += transactions.write_repeatable(store_batches, batches)
            del waiting[:done]
            if on_progress is not None:
                on_progress(added)
            if seconds is not None and time.monotonic() - began > seconds:
                return added
    return added


def list_waiting(work: UnitOfWork, owner: str) -> list[str]:
    """Return the ids of conversations with messages to be added, the oldest first; [] if there are none.

    There are none either if this SQLite cannot write the index.
    """
    if search_index.find_kind(work.connection) is IndexKind.NONE:
        return []
    return search_backlog.list_oldest(work.connection, owner, _LISTED_AT_ONCE)


def read_batches(work: UnitOfWork, owner: str, waiting: Sequence[str]) -> tuple[list[Batch], int]:
    """Return messages to be added, of one conversation or of several short ones; damaged messages are left out.

    Args:
        waiting: ids of conversations.

    Returns:
        The messages, and the number of conversations that have no others.
    """
    batches: list[Batch] = []
    texts = 0
    for done, id in enumerate(waiting):
        if texts >= _TEXTS_AT_ONCE or len(batches) >= _CONVERSATIONS_AT_ONCE:
            return batches, done
        key = ConversationKey(owner, id)
        from_seq = search_backlog.find_start(work.connection, key)
        if from_seq is None:  # another process has added them
            continue
        batches.append(_read_batch(work, key, from_seq))
        texts += len(batches[-1].texts)
        if batches[-1].next_seq is not None:
            return batches, done
    return batches, len(waiting)


def _read_batch(work: UnitOfWork, key: ConversationKey, from_seq: Seq) -> Batch:
    texts: list[IndexedText] = []
    redactions = search_gaps.find_redactions(work.connection, key)
    names = None
    if from_seq == NO_SEQ:
        created_at, *names = search_gaps.read_title(work.connection, key)
        if any(names):
            document = search_index.count_microseconds(created_at), key.id, NO_SEQ
            texts.append(IndexedText(document, search_index.find_title_terms(*names)))
    messages, next_seq = search_gaps.read_unindexed(work.connection, key, from_seq)
    for document, message in messages:
        terms = frozenset(find_terms(fold(extract_searched_text(message))))
        texts.append(IndexedText(document, terms))
    return Batch(key, from_seq, next_seq, texts, redactions, tuple(names) if names is not None else None)


def store_batches(work: UnitOfWork, batches: Sequence[Batch]) -> int:
    """Add batches to the index, and return how many of their texts were not in it."""
    return sum(_store_batch(work, batch) for batch in batches)


def _store_batch(work: UnitOfWork, batch: Batch) -> int:
    if not search_gaps.hold_conversation(work.connection, batch.key):
        return 0  # it was purged since it was read
    # A word that was removed meanwhile must not come into the index: the batch is read again. A fork's title may be
    # redacted with no message of the fork.
    if search_gaps.find_redactions(work.connection, batch.key) != batch.redactions:
        return 0
    if batch.names is not None and search_gaps.read_title(work.connection, batch.key)[1:] != batch.names:
        return 0
    known = search_rows.find_known(work.connection, batch.key.owner, [text.key for text in batch.texts])
    new = [text for text in batch.texts if text.key not in known]
    search_index.add_texts(work.connection, batch.key.owner, new)
    search_backlog.advance(work.connection, batch.key, batch.from_seq, batch.next_seq)
    return len(new)


def put_off_all(work: UnitOfWork, owner: str) -> None:
    """Note that the index must be compared with all conversations of an owner."""
    search_backlog.put_off_all(work.connection, owner)


def list_owners(work: UnitOfWork, *, unindexed: bool) -> list[str]:
    """Return the owners of conversations, or only those with messages that are not in the index yet."""
    return search_backlog.list_owners(work.connection, waiting=unindexed)
