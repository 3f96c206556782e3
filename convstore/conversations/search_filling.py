"""Adding messages to the search index that were stored without it: before there was one, or because they are long.

A batch is read in one transaction and added in another, so that no transaction lasts while many words are split. It may
end after any batch, and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from convstore.db import pending_terms, search_backlog, search_gaps, search_index, search_rows
from convstore.db.search_gaps import NO_REDACTIONS, Head, Redactions
from convstore.db.search_index import DocumentKey, IndexedText, IndexKind
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.message import Message
from convstore.search.folded_text import fold
from convstore.search.searched_text import extract_searched_text
from convstore.search.terms import find_terms
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq

_TEXTS_AT_ONCE = {IndexKind.GIN: 6_000, IndexKind.FTS5: 300, IndexKind.TABLE: 300}
"""How much one transaction adds; on SQLite, others wait for it."""
_MOST_TEXTS_IN_A_HURRY = 500
_CONVERSATIONS_AT_ONCE, _FEW_MESSAGES = 1_000, 6
"""How many conversations are looked up; fewer, if so many with few messages have enough."""
_FIRST_SEQ = 1

_LISTED_AT_ONCE = 10_000  # conversations


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of a conversation to be added to the index."""

    key: ConversationKey
    from_seq: Seq
    next_seq: Seq | None
    """The first message of the batch after this one; None: this is the conversation's last."""
    texts: list[IndexedText]
    redactions: Redactions
    """What was redacted in the conversation, as far as the texts show it."""
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
            batches, done = transactions.read(read_batches, owner, waiting, is_hurried=seconds is not None)
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


def read_batches(
    work: UnitOfWork, owner: str, waiting: Sequence[str], *, is_hurried: bool = False
) -> tuple[list[Batch], int]:
    """Return messages to be added, of one conversation or of several short ones; damaged messages are left out.

    Args:
        waiting: ids of conversations.
        is_hurried: somebody waits, so return fewer.

    Returns:
        The messages, and the number of conversations that have no others.
    """
    most = _TEXTS_AT_ONCE[search_index.find_kind(work.connection)]
    most = min(most, _MOST_TEXTS_IN_A_HURRY) if is_hurried else most
    ids = waiting[: min(_CONVERSATIONS_AT_ONCE, most // _FEW_MESSAGES + 1)]
    starts = search_backlog.find_starts(work.connection, owner, ids)
    heads = search_gaps.read_heads(work.connection, owner, ids)
    left = [id for id in ids if id in starts and id in heads]  # another process has added the others
    if not left:
        return [], len(ids)
    short = []
    for id in left:
        most -= heads[id].most_messages
        if most < 0 or starts[id] > _FIRST_SEQ:
            break
        short.append(id)
    whole = search_gaps.choose_short(work.connection, owner, short) if short else []
    if whole:
        return _read_whole(work, owner, {id: starts[id] for id in whole}, heads), ids.index(whole[-1]) + 1
    batch = _read_part(work, ConversationKey(owner, left[0]), starts[left[0]], heads[left[0]])
    return [batch], ids.index(left[0]) + (batch.next_seq is None)


def _read_whole(work: UnitOfWork, owner: str, starts: Mapping[str, Seq], heads: Mapping[str, Head]) -> list[Batch]:
    ids = list(starts)
    # Before the messages: what is redacted after it is noticed when the texts are stored.
    redactions = search_gaps.find_redactions(work.connection, owner, ids)
    messages = search_gaps.read_whole(work.connection, owner, ids)
    return [
        _make_batch(ConversationKey(owner, id), heads[id], (from_seq, None), messages[id], redactions)
        for id, from_seq in starts.items()
    ]


def _read_part(work: UnitOfWork, key: ConversationKey, from_seq: Seq, head: Head) -> Batch:
    redactions = search_gaps.find_redactions(work.connection, key.owner, [key.id])
    messages, next_seq = search_gaps.read_unindexed(work.connection, key, from_seq)
    return _make_batch(key, head, (from_seq, next_seq), messages, redactions)


def _make_batch(
    key: ConversationKey,
    head: Head,
    part: tuple[Seq, Seq | None],
    messages: Sequence[tuple[DocumentKey, Message]],
    redactions: Mapping[str, Redactions],
) -> Batch:
    texts, has_title = list(map(_make_text, messages)), part[0] == NO_SEQ
    if has_title and any(head.names):
        document = search_index.count_microseconds(head.created_at), key.id, NO_SEQ
        texts.insert(0, IndexedText(document, search_index.find_title_terms(*head.names)))
    names = head.names if has_title else None
    return Batch(key, *part, texts, redactions.get(key.id, NO_REDACTIONS), names)


def _make_text(found: tuple[DocumentKey, Message]) -> IndexedText:
    document, message = found
    return IndexedText(document, frozenset(find_terms(fold(extract_searched_text(message)))))


def store_batches(work: UnitOfWork, batches: Sequence[Batch]) -> int:
    """Add batches of one owner to the index, and return how many of their texts were not in it.

    A word that was removed since they were read must not come into the index; such a conversation is read again. A
    fork's title may be redacted with no message of the fork.
    """
    if not batches:
        return 0
    owner, ids = batches[0].key.owner, [batch.key.id for batch in batches]
    existing = search_gaps.hold_conversations(work.connection, owner, ids)
    redactions = search_gaps.find_redactions(work.connection, owner, ids)
    heads = search_gaps.read_heads(work.connection, owner, ids)
    unchanged = [
        batch
        for batch in batches
        if batch.key.id in existing
        and redactions.get(batch.key.id, NO_REDACTIONS) == batch.redactions
        and batch.names in (None, heads[batch.key.id].names)
    ]
    added = _add_missing(work, owner, [text for batch in unchanged for text in batch.texts])
    search_backlog.advance(
        work.connection, owner, [(batch.key.id, batch.from_seq, batch.next_seq) for batch in unchanged]
    )
    return added


def _add_missing(work: UnitOfWork, owner: str, texts: Sequence[IndexedText]) -> int:
    if search_index.find_kind(work.connection) is IndexKind.GIN:  # it counts those that it adds
        if len(texts) < pending_terms.FEWEST_TEXTS:
            return search_index.add_texts(work.connection, owner, texts)
        with pending_terms.sorted_in_together(work.connection, owner):
            return search_index.add_texts(work.connection, owner, texts)
    known = search_rows.find_known(work.connection, owner, [text.key for text in texts])
    return search_index.add_texts(work.connection, owner, [text for text in texts if text.key not in known])


def put_off_all(work: UnitOfWork, owner: str) -> None:
    """Note that the index must be compared with all conversations of an owner."""
    search_backlog.put_off_all(work.connection, owner)


def list_owners(work: UnitOfWork, *, unindexed: bool) -> list[str]:
    """Return the owners of conversations, or only those with messages that are not in the index yet."""
    return search_backlog.list_owners(work.connection, waiting=unindexed)
