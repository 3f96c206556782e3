"""Import convstore's own export: each conversation whole, some of them in each transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from convstore.conversations.import_run import ImportRun, ImportTerms
from convstore.conversations.importing import make_imported_id
from convstore.db.connection import hold_savepoint
from convstore.db.loaded_lines import Loaded, TakenId, load_conversation
from convstore.db.tombstone_rows import read_reasons, remove_tombstones
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationBusy, ConversationNotFound, InvalidInput
from convstore.leases.claims import lock_conversation
from convstore.transfer.imported import Problem
from convstore.transfer.own_export import OwnConversation
from convstore.transfer.reading import OWN_KIND
from convstore.values.identifiers import ConversationKey
from convstore.values.import_report import ImportReport
from convstore.values.results import ErasureReason


@dataclass(frozen=True, slots=True)
class _Ids:
    """What was found out about ids by the conversations so far."""

    renamed: dict[str, str] = field(default_factory=dict)
    """New ids of conversations, by those in the export."""
    tried: set[str] = field(default_factory=set)
    """Conversations that a trial would have stored, so that their forks have an origin."""

    def copy(self) -> _Ids:
        return _Ids(dict(self.renamed), set(self.tried))


class OwnImport:
    """An import of convstore's own export into the conversations of one owner.

    Args:
        on_progress: called after each transaction with the number of messages read so far, and with their share.
        get_share: returns the share of the file that was read; None if it is unknown.
    """

    def __init__(
        self,
        transactions: Transactions,
        terms: ImportTerms,
        *,
        on_progress: Callable[[int, float | None], object] | None = None,
        get_share: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._transactions = transactions
        self._terms = terms
        self._ids = _Ids()
        self._run = ImportRun(OWN_KIND, self._store_batch, on_progress, get_share)

    def run(self, conversations: Iterable[OwnConversation | Problem]) -> ImportReport:
        """Store conversations, and return what was done."""
        return self._run.run(conversations, self._add)

    def _add(self, one: OwnConversation) -> None:
        self._run.add(one, one.messages, one.size)

    def _store_batch(self, batch: list[OwnConversation]) -> None:
        try:
            done, self._ids = self._transactions.write_repeatable(
                _store_conversations, batch, self._terms, self._ids, self._run.indexed_left
            )
        finally:
            for one in batch:
                one.close()
        for one, outcome in zip(batch, done, strict=True):
            place = f"{one.place} (conversation {one.head['id']!r:.80})"
            if isinstance(outcome, str):
                self._run.report(place, outcome)
                continue
            if outcome.erased is not None:
                self._run.report(place, outcome.erased.note, is_note=True)
                self._run.count("erased", 0, 0)
                continue
            for note in outcome.notes:
                self._run.report(place, note, is_note=True)
            states = {"new": outcome.is_new, "deleted": outcome.is_deleted, "changed": outcome.is_changed}
            state = next((state for state, is_so in states.items() if is_so), "unchanged")
            self._run.count(state, outcome.messages, outcome.not_indexed)


def _store_conversations(
    work: UnitOfWork, batch: Sequence[OwnConversation], terms: ImportTerms, ids: _Ids, most_indexed: int
) -> tuple[list[Loaded | str], _Ids]:
    """Store conversations, each whole or not at all; return what became of each, or why it was refused."""
    ids = ids.copy()  # the transaction may be repeated
    done: list[Loaded | str] = []
    for one in batch:
        try:
            loaded = _store(work, one, terms, ids, is_indexed=one.messages <= most_indexed)
        except (ConversationBusy, InvalidInput) as error:
            done.append(str(error))
        else:
            done.append(loaded)
            most_indexed -= loaded.messages - loaded.not_indexed
    return done, ids


def _store(work: UnitOfWork, one: OwnConversation, terms: ImportTerms, ids: _Ids, *, is_indexed: bool) -> Loaded:
    id: str = one.head["id"]
    origin = one.head.get("forked_from")
    if origin is not None and origin["id"] in ids.tried:
        ids.tried.add(id)
        return Loaded(is_new=True, is_deleted=False, messages=one.messages)
    origin_id = ids.renamed.get(origin["id"], origin["id"]) if origin is not None else None

    def load(id: str) -> Loaded:
        # Also in a transaction that goes on after an error: the caller's, or another conversation's of the batch.
        with hold_savepoint(work.connection, keeps=not terms.is_trial):
            key = ConversationKey(terms.owner, id)
            if terms.again:
                remove_tombstones(work.connection, terms.owner, [id])
            with suppress(ConversationNotFound):  # it is new, or deleted here
                lock_conversation(work, key)  # ends a turn of a dead process, as anybody who writes does
            _check_not_erased(work, key)
            loaded = load_conversation(work, key, one.head, one.iterate_lines, origin_id, is_indexed=is_indexed)
            if loaded.is_new:
                _check_not_erased(work, key)  # if it was purged at the same moment, it was only inserted after that
            return loaded

    try:
        loaded = load(id)
    except _Erased as error:
        return Loaded(erased=error.reason)
    except TakenId:
        if not terms.new_ids:
            raise
        # Made of what it is, so that the same file finds it again.
        ids.renamed[id] = make_imported_id(OWN_KIND, f"{id} {one.head['created_at']}")
        try:
            loaded = load(ids.renamed[id])
        except _Erased as error:
            return Loaded(erased=error.reason)
    if loaded.is_new and terms.is_trial:
        ids.tried.add(id)
    return loaded


class _Erased(Exception):
    """A conversation was purged or redacted here."""

    def __init__(self, reason: ErasureReason) -> None:
        super().__init__(reason)
        self.reason = reason


def _check_not_erased(work: UnitOfWork, key: ConversationKey) -> None:
    reason = read_reasons(work.connection, key.owner, [key.id]).get(key.id)
    if reason is not None:
        raise _Erased(reason)
