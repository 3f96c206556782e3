"""Import the conversations of other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from convstore.conversations.import_run import ImportRun, ImportTerms
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
from convstore.values.import_report import ImportReport


class ForeignImport:
    """An import into the conversations of one owner.

    Args:
        kind: the kind of the file.
        file: the name of the file.
        on_progress: called after each transaction with the number of messages read so far, and with their share.
        get_share: returns the share of the file that was read; None if it is unknown.
    """

    def __init__(
        self,
        transactions: Transactions,
        terms: ImportTerms,
        kind: str,
        file: str | None,
        *,
        on_progress: Callable[[int, float | None], object] | None = None,
        get_share: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._transactions = transactions
        self._terms = terms
        self._kind = kind
        self._origin: dict[str, Any] = {"kind": kind, **({"file": file} if file is not None else {})}
        self._run = ImportRun(kind, self._store_batch, on_progress, get_share)

    def run(self, conversations: Iterable[ImportedConversation | Problem]) -> ImportReport:
        """Bring in conversations, and return what was done."""
        return self._run.run(conversations, self._add)

    def _add(self, one: ImportedConversation) -> None:
        key = ConversationKey(self._terms.owner, make_imported_id(self._kind, one.id))
        origin, count_tokens = {**self._origin, "id": one.id}, self._transactions.services.count_tokens
        try:
            prepared = prepare_conversation(one, key, origin, count_tokens, datetime.now(UTC))
        except InvalidInput as error:
            self._run.report(_name(one), str(error))
            return
        self._run.add(prepared, len(one.messages), prepared.size)

    def _store_batch(self, batch: list[PreparedConversation]) -> None:
        if self._terms.is_trial:
            done = self._transactions.read(try_conversations, batch, again=self._terms.again)
        else:
            done = self._transactions.write_repeatable(
                store_conversations, batch, self._run.indexed_left, again=self._terms.again
            )
        for prepared, outcome in zip(batch, done, strict=True):
            self._count(prepared.imported, outcome)

    def _count(self, one: ImportedConversation, outcome: Imported) -> None:
        if outcome.refusal is not None:
            self._run.report(_name(one), outcome.refusal)
            return
        if outcome.erased is not None:
            self._run.report(_name(one), outcome.erased.note, is_note=True)
            self._run.count("erased", 0, 0)
            return
        if outcome.messages:
            for note in one.notes:
                self._run.report(_name(one), note, is_note=True)
        state = "new" if outcome.is_new else "deleted" if outcome.is_deleted else None
        self._run.count(
            state or ("changed" if outcome.messages else "unchanged"), outcome.messages, outcome.not_indexed
        )


def _name(one: ImportedConversation) -> str:
    return one.title or one.id
