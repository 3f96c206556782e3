"""Bringing in the conversations of a file, some of them in each transaction.

A transaction takes about as long for one conversation as for fifty, because it waits for the disk. It must not take
long either: on SQLite, nobody else can write meanwhile. So a batch is bounded, in messages, in bytes, and in the time
that its conversations wait for others. A conversation is never divided.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from convstore.conversations.importing import (
    Imported,
    PreparedConversation,
    make_imported_id,
    prepare_conversation,
    store_conversations,
    try_conversations,
)
from convstore.db.transactions import Transactions
from convstore.errors import InvalidInput
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.values.identifiers import ConversationKey
from convstore.values.import_report import ImportProblem, ImportReport

MOST_INDEXED_AT_ONCE = 10_000
"""How many messages an import adds to the search index itself; it notes of the others that they must be added."""

_BATCH_MESSAGES, _BATCH_BYTES, _BATCH_SECONDS = 1_000, 4_000_000, 1.0


class ConversationImport:
    """An import into the conversations of one owner.

    Args:
        kind: the kind of the file.
        file: the name of the file.
        is_trial: store nothing.
        on_progress: called after each transaction with the number of messages read so far, and with their share.
        get_share: returns the share of the file that was read; None if it is unknown.
    """

    def __init__(
        self,
        transactions: Transactions,
        owner: str,
        kind: str,
        file: str | None,
        *,
        is_trial: bool,
        on_progress: Callable[[int, float | None], object] | None = None,
        get_share: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._transactions = transactions
        self._owner = owner
        self._kind = kind
        self._origin: dict[str, Any] = {"kind": kind, **({"file": file} if file is not None else {})}
        self._is_trial = is_trial
        self._on_progress = on_progress
        self._get_share = get_share
        self._batch: list[PreparedConversation] = []
        self._batch_messages = self._batch_bytes = 0
        self._batch_began = 0.0
        self._problems: list[ImportProblem] = []
        self._counts = Counter[str]()
        self._read = 0

    def run(self, conversations: Iterable[ImportedConversation | Problem]) -> ImportReport:
        """Bring in conversations, and return what was done."""
        try:
            for one in conversations:
                if isinstance(one, Problem):
                    self._problems.append(ImportProblem(one.place, one.reason, is_note=False))
                else:
                    self._add(one)
                if self._is_full():
                    self._store_batch()
        except Exception:  # of the reader, perhaps: what it has read is good
            self._store_batch()
            raise
        self._store_batch()
        return ImportReport(
            kind=self._kind,
            new=self._counts["new"],
            changed=self._counts["changed"],
            unchanged=self._counts["unchanged"],
            deleted=self._counts["deleted"],
            messages=self._counts["messages"],
            problems=self._problems,
            not_indexed=self._counts["not indexed"],
        )

    def _add(self, one: ImportedConversation) -> None:
        key = ConversationKey(self._owner, make_imported_id(self._kind, one.id))
        origin, count_tokens = {**self._origin, "id": one.id}, self._transactions.services.count_tokens
        try:
            prepared = prepare_conversation(one, key, origin, count_tokens, datetime.now(UTC))
        except InvalidInput as error:
            self._problems.append(ImportProblem(_name(one), str(error), is_note=False))
            return
        if not self._batch:
            self._batch_began = time.monotonic()
        self._batch.append(prepared)
        self._batch_messages += len(prepared.records)
        self._batch_bytes += prepared.size

    def _is_full(self) -> bool:
        return bool(self._batch) and (
            self._batch_messages >= _BATCH_MESSAGES
            or self._batch_bytes >= _BATCH_BYTES
            or time.monotonic() - self._batch_began >= _BATCH_SECONDS
        )

    def _store_batch(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        self._batch_messages = self._batch_bytes = 0
        if self._is_trial:
            done = self._transactions.read(try_conversations, batch)
        else:
            most_indexed = max(0, MOST_INDEXED_AT_ONCE - self._counts["messages"])
            done = self._transactions.write_repeatable(store_conversations, batch, most_indexed)
        for prepared, outcome in zip(batch, done, strict=True):
            self._count(prepared.imported, outcome)
        if self._on_progress is not None:
            self._on_progress(self._read, self._get_share())

    def _count(self, one: ImportedConversation, outcome: Imported) -> None:
        self._read += len(one.messages)
        if outcome.refusal is not None:
            self._problems.append(ImportProblem(_name(one), outcome.refusal, is_note=False))
            return
        if outcome.messages:
            self._problems += [ImportProblem(_name(one), note, is_note=True) for note in one.notes]
        self._counts["messages"] += outcome.messages
        self._counts["not indexed"] += outcome.not_indexed
        state = "new" if outcome.is_new else "deleted" if outcome.is_deleted else None
        self._counts[state or ("changed" if outcome.messages else "unchanged")] += 1


def _name(one: ImportedConversation) -> str:
    return one.title or one.id
