"""An import: which conversations are stored together, and what became of them.

A transaction takes about as long for one conversation as for fifty, because it waits for the disk. It must not take
long either: on SQLite, nobody else can write meanwhile. So a batch is bounded, in messages, in bytes, and in the time
that its conversations wait for others. A conversation is never divided.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from convstore.transfer.imported import Problem
from convstore.values.import_report import ImportProblem, ImportReport

MOST_INDEXED_AT_ONCE = 10_000
"""How many messages an import adds to the search index itself; it notes of the others that they must be added."""

_BATCH_MESSAGES, _BATCH_BYTES, _BATCH_SECONDS = 1_000, 4_000_000, 1.0

Read = TypeVar("Read")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ImportTerms:
    """What holds for all conversations of an import."""

    owner: str
    is_trial: bool
    """Whether nothing is stored."""
    again: bool
    """Whether what was purged or redacted here is brought in, too."""
    new_ids: bool = False
    """Whether a conversation gets a new id if its own is taken by other contents; else it is reported."""


class ImportRun(Generic[Item]):
    """The batches of an import, its counts and its problems.

    Args:
        kind: the kind of the file.
        store: stores a batch in one transaction, and counts what became of each conversation.
        on_progress: called after each transaction with the number of messages read so far, and with their share.
        get_share: returns the share of the file that was read; None if it is unknown.
    """

    def __init__(
        self,
        kind: str,
        store: Callable[[list[Item]], None],
        on_progress: Callable[[int, float | None], object] | None,
        get_share: Callable[[], float | None],
    ) -> None:
        self._kind = kind
        self._store = store
        self._on_progress = on_progress
        self._get_share = get_share
        self._batch: list[Item] = []
        self._batch_messages = self._batch_bytes = 0
        self._batch_began = 0.0
        self._problems: list[ImportProblem] = []
        self._counts = Counter[str]()
        self._read = 0

    @property
    def indexed_left(self) -> int:
        """How many more messages this import adds to the search index itself."""
        return max(0, MOST_INDEXED_AT_ONCE - (self._counts["messages"] - self._counts["not_indexed"]))

    def run(self, conversations: Iterable[Read | Problem], add: Callable[[Read], None]) -> ImportReport:
        """Read conversations, store them, and return what was done.

        Args:
            add: prepares a conversation, and calls `add` with it.
        """
        try:
            for one in conversations:
                if isinstance(one, Problem):
                    self.report(one.place, one.reason)
                else:
                    add(one)
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
            not_indexed=self._counts["not_indexed"],
            erased=self._counts["erased"],
        )

    def add(self, item: Item, messages: int, size: int) -> None:
        """Add a conversation to the batch.

        Args:
            messages: the number of its messages.
            size: about how many bytes they have.
        """
        if not self._batch:
            self._batch_began = time.monotonic()
        self._batch.append(item)
        self._batch_messages += messages
        self._batch_bytes += size
        self._read += messages

    def count(self, state: str, messages: int, not_indexed: int) -> None:
        """Count what became of a conversation.

        Args:
            state: "new", "changed", "unchanged", "deleted" or "erased".
            messages: the number of its messages that were added.
            not_indexed: the number of those that are not in the search index yet.
        """
        self._counts[state] += 1
        self._counts["messages"] += messages
        self._counts["not_indexed"] += not_indexed

    def report(self, place: str, reason: str, *, is_note: bool = False) -> None:
        """Report a conversation that was not brought in, or a part of it that was not (`is_note`)."""
        self._problems.append(ImportProblem(place, reason, is_note=is_note))

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
        self._store(batch)
        if self._on_progress is not None:
            self._on_progress(self._read, self._get_share())
