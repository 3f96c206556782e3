"""Import convstore's own export: each conversation whole, in a transaction of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

from convstore.conversations.importing import make_imported_id
from convstore.db.loaded_lines import Loaded, TakenId, load_conversation
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationBusy, ConversationNotFound, InvalidInput
from convstore.leases.claims import lock_conversation
from convstore.transfer.imported import Problem
from convstore.transfer.own_export import OwnConversation
from convstore.transfer.reading import OWN_KIND
from convstore.values.identifiers import ConversationKey
from convstore.values.import_report import ImportProblem, ImportReport


class OwnImport:
    """An import of convstore's own export into the conversations of one owner.

    Args:
        is_trial: store nothing.
        new_ids: give a conversation a new id if its own is taken by other contents; False: report it.
        on_progress: called after each conversation with the number of messages read so far.
    """

    def __init__(
        self,
        transactions: Transactions,
        owner: str,
        *,
        is_trial: bool,
        new_ids: bool,
        on_progress: Callable[[int], object] | None,
    ) -> None:
        self._transactions = transactions
        self._owner = owner
        self._is_trial = is_trial
        self._new_ids = new_ids
        self._on_progress = on_progress
        self._problems: list[ImportProblem] = []
        self._counts = Counter[str]()
        self._read = 0
        self._renamed: dict[str, str] = {}
        self._tried: set[str] = set()
        """Conversations that a trial would have stored, so that their forks have an origin."""

    def run(self, conversations: Iterable[OwnConversation | Problem]) -> ImportReport:
        """Store conversations, and return what was done."""
        for one in conversations:
            if isinstance(one, Problem):
                self._problems.append(ImportProblem(one.place, one.reason, is_note=False))
                continue
            try:
                self._count(one, self._load(one))
            except (ConversationBusy, InvalidInput) as error:
                place = f"{one.place} (conversation {one.head['id']!r:.80})"
                self._problems.append(ImportProblem(place, str(error), is_note=False))
        return ImportReport(
            kind=OWN_KIND,
            new=self._counts["new"],
            changed=self._counts["changed"],
            unchanged=self._counts["unchanged"],
            deleted=self._counts["deleted"],
            messages=self._counts["messages"],
            problems=self._problems,
        )

    def _load(self, one: OwnConversation) -> Loaded:
        origin = one.head.get("forked_from")
        if origin is not None and origin["id"] in self._tried:
            self._tried.add(one.head["id"])
            return Loaded(is_new=True, is_deleted=False, messages=_count_messages(one))
        try:
            return self._store(one, one.head["id"])
        except TakenId:
            if not self._new_ids:
                raise
        # Made of what it is, so that the same file finds it again.
        renamed = make_imported_id(OWN_KIND, f"{one.head['id']} {one.head['created_at']}")
        self._renamed[one.head["id"]] = renamed
        return self._store(one, renamed)

    def _store(self, one: OwnConversation, id: str) -> Loaded:
        origin = one.head.get("forked_from")
        origin_id = self._renamed.get(origin["id"], origin["id"]) if origin is not None else None
        key = ConversationKey(self._owner, id)
        loaded = self._transactions.write_repeatable(_load_whole, key, one, origin_id, is_trial=self._is_trial)
        if loaded.is_new and self._is_trial:
            self._tried.add(one.head["id"])
        return loaded

    def _count(self, one: OwnConversation, loaded: Loaded) -> None:
        place = f"{one.place} (conversation {one.head['id']!r:.80})"
        self._problems += [ImportProblem(place, note, is_note=True) for note in loaded.notes]
        self._counts["messages"] += loaded.messages
        states = {"new": loaded.is_new, "deleted": loaded.is_deleted, "changed": loaded.is_changed}
        self._counts[next((state for state, is_so in states.items() if is_so), "unchanged")] += 1
        if self._on_progress is not None:
            self._read += _count_messages(one)
            self._on_progress(self._read)


def _count_messages(one: OwnConversation) -> int:
    return sum(line["type"] == "message" for line in one.iterate_lines())


def _load_whole(
    work: UnitOfWork, key: ConversationKey, one: OwnConversation, origin_id: str | None, *, is_trial: bool
) -> Loaded:
    """Load a conversation whole or not at all, also in a transaction that goes on after an error.

    A turn of a dead process is ended first, as anybody who writes to the conversation does.
    """
    savepoint = work.connection.plain.begin_nested()
    try:
        with suppress(ConversationNotFound):  # it is new, or deleted here
            lock_conversation(work, key)
        loaded = load_conversation(work, key, one.head, one.iterate_lines, origin_id)
    except BaseException:
        savepoint.rollback()
        raise
    if is_trial:
        savepoint.rollback()
    else:
        savepoint.commit()
    return loaded
