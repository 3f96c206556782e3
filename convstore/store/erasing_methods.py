"""The methods of a store that remove conversations for good."""

from __future__ import annotations

import builtins  # `list` is a method
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Literal

from convstore.conversations import purging, retention_rules
from convstore.conversations.purging import PurgeTerms
from convstore.db.erasure_steps import ErasureStep
from convstore.db.purgeable_ids import AgeLimit
from convstore.db.transactions import OwnTransactions
from convstore.errors import (
    ConversationBusy,
    ConversationNotFound,
    ConvstoreError,
    DatabaseUnavailable,
    InvalidInput,
    PurgeUnfinished,
)
from convstore.store.key_methods import KeyMethods
from convstore.values.identifiers import ConversationKey
from convstore.values.purge_receipt import PurgeReceipt
from convstore.values.retention_rule import Retained, RetentionRule

_GIVES_UP_AFTER = 3
"""How many conversations one after another may find the database unavailable, until the others are not tried."""


@dataclass(slots=True)
class _Done:
    """What purges did so far."""

    receipts: list[PurgeReceipt] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    """The ids of conversations with a running turn."""
    failures: list[tuple[str, ConvstoreError]] = field(default_factory=list)
    """The ids of others that could not be purged, each with its error."""


class ErasingMethods(KeyMethods):
    """Removing an owner's conversations for good."""

    def purge(
        self,
        conversation_id: str,
        *,
        dry_run: bool = False,
        after: Collection[str] = (),
        keep_digest: bool = False,
        finish: bool = True,
    ) -> PurgeReceipt:
        """Remove a conversation and all that belongs to it for good, and return a receipt without text.

        It may be a deleted one. Its forks keep a copy of what they share, under the same numbers. Imports leave it out
        from now on.

        Args:
            conversation_id: the conversation's whole id.
            dry_run: remove nothing, and return what would be removed.
            after: for a dry run, the ids of conversations that will have been purged before: they keep nothing of it.
            keep_digest: put the digest of the last message into the receipt; it lets somebody test a guess.
            finish: overwrite it in a SQLite file too, as `finish_purge` does; False: call that after several purges.

        Raises:
            ConversationNotFound: the owner has no such conversation, not even a deleted one.
            ConversationBusy: a turn of it, or of a fork of it, is running; or another transaction held the row of one
                for 30 seconds. Nothing is removed.
            PurgeUnfinished: it was removed, but others use the SQLite file, so that it is not overwritten yet.
        """
        key, terms = self._key(conversation_id), self._make_terms(keep_digest=keep_digest)
        if dry_run:
            return self._transactions.read(purging.plan_purge, key, terms, after)
        receipt = self._purge(key, terms)
        if receipt is None:
            raise AssertionError("a purge without a limit of age has no reason to leave it")
        if finish:
            self._finish(_Done([receipt]))
        return receipt

    def purge_older_than(
        self,
        age: timedelta | datetime,
        *,
        ids: Collection[str] | None = None,
        deleted: bool = False,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        """Purge conversations that nobody has changed for some time, and return a receipt for each.

        Each is purged in a transaction of its own. One that somebody changes or restores meanwhile is left.

        Args:
            age: how long ago the last change was, at least; or the moment before that it was.
            ids: purge only these of them; None: all.
            deleted: purge only those that were deleted at least so long ago.
            dry_run: remove nothing, and return what would be removed.
            keep_digest: as for `purge`.
            finish: as for `purge`.
            on_progress: called with the number of conversations purged so far.

        Raises:
            InvalidInput: the age is negative, or a moment without a time zone.
            PurgeUnfinished: some have a running turn or a damaged row, or the SQLite file is in use. The others were
                removed.
        """
        limits = (AgeLimit(_find_moment(age), deleted),)
        terms = replace(self._make_terms(keep_digest=keep_digest), only_older=limits)
        done = _Done()
        self._purge_all(self._list_older(terms, ids), terms, done, dry_run=dry_run, on_progress=on_progress)
        self._finish(done, overwrites=finish and not dry_run)
        return done.receipts

    def purge_owner(
        self,
        *,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        """Purge everything of the owner, and return a receipt for each conversation.

        Besides conversations, these are attachments, sums of usage, periods of retention, keys of the service, and
        what lets imports leave out purged conversations: the owner's files may be imported again.

        Args:
            dry_run: remove nothing, and return what would be removed.
            keep_digest: as for `purge`.
            finish: as for `purge`.
            on_progress: called with the number of conversations purged so far.

        Raises:
            PurgeUnfinished: conversations have a running turn or a damaged row, or the SQLite file is in use. Call it
                again.
        """
        terms = self._make_terms(keep_digest=keep_digest, takes_all=True)
        done = _Done()
        while True:
            ids = self._transactions.read(purging.list_all, self._owner)
            self._purge_all(ids, terms, done, dry_run=dry_run, on_progress=on_progress)
            if dry_run or done.busy or done.failures:
                break
            if self._transactions.write_repeatable(purging.erase_owner, self._owner):
                break  # else a conversation was made meanwhile
        self._finish(done, overwrites=finish and not dry_run)
        return done.receipts

    def set_retention(self, keep: timedelta, *, covers: Literal["all", "deleted"] = "all") -> RetentionRule:
        """Say how long the owner's conversations are kept, and return the rule. `run_retention` purges the others.

        Args:
            keep: how long after the last change; at least an hour.
            covers: `"deleted"`: the rule is only about deleted conversations, and counts from when they were deleted.

        Raises:
            InvalidInput: the time is too short or too long, or `covers` is not valid.
        """
        if not timedelta(hours=1) <= keep <= timedelta(days=36_500):
            raise InvalidInput("conversations can be kept for an hour at least, and for 36,500 days at most")
        rule = RetentionRule(self._owner, _check_covers(covers), keep, datetime.now(UTC))
        return self._transactions.write_repeatable(retention_rules.set_rule, rule)

    def retention(self) -> builtins.list[RetentionRule]:
        """Return the rules of the owner; [] if conversations are kept for ever."""
        return self._transactions.read(retention_rules.read_rules, self._owner)

    def unset_retention(self, *, covers: Literal["all", "deleted"] = "all") -> bool:
        """Remove a rule, so that conversations are kept for ever; return False if it does not exist.

        Args:
            covers: as for `set_retention`.
        """
        return self._transactions.write_repeatable(retention_rules.remove_rule, self._owner, _check_covers(covers))

    def list_retention_owners(self) -> builtins.list[str]:
        """Return the owners that have a rule: for administrators, to run the rules of each.

        Only a store without an owner (`owner=""`) may call this.

        Raises:
            InvalidInput: the store has an owner.
        """
        if self._owner:
            raise InvalidInput(f"owner {self._owner!r} may not see other owners; only a store without an owner may")
        return self._transactions.read(retention_rules.list_owners)

    def run_retention(
        self,
        *,
        ids: Collection[str] | None = None,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        """Purge the owner's conversations that are kept long enough, and return a receipt for each.

        Nothing is purged without this call. A conversation with a running turn waits for the next one. One that
        somebody changes or restores meanwhile is left.

        Args:
            ids: purge only these of them; None: all.
            dry_run: remove nothing, and return what would be removed.
            keep_digest: as for `purge`.
            finish: as for `purge`.
            on_progress: called with the number of conversations purged so far.

        Raises:
            PurgeUnfinished: some have a running turn or a damaged row, or the SQLite file is in use. The others were
                removed.
        """
        now = datetime.now(UTC)
        limits = tuple(AgeLimit(now - rule.keep, rule.covers is Retained.DELETED) for rule in self.retention())
        if not limits:
            return []
        terms = replace(self._make_terms(keep_digest=keep_digest), only_older=limits)
        done = _Done()
        self._purge_all(self._list_older(terms, ids), terms, done, dry_run=dry_run, on_progress=on_progress)
        self._finish(done, overwrites=finish and not dry_run)
        return done.receipts

    def finish_purge(self) -> builtins.list[str]:
        """Overwrite what was purged in the SQLite file and its log, and return what could not be done now.

        The search index is merged, the file is rewritten, and the log is emptied. Others wait meanwhile, and the disk
        needs room for a second file. On PostgreSQL there is nothing to do.

        Returns:
            `index`, `rewrite`, `log`, in this order, or those of them that are left because others use the file.

        Raises:
            InvalidInput: it was called in the caller's own transaction.
            DatabaseUnavailable: the file cannot be written, or the disk is full.
        """
        if not isinstance(self._transactions, OwnTransactions):
            raise InvalidInput("a purge is finished outside of your transaction: call `finish_purge` of the store")
        from convstore.db.sqlite_erasing import finish_erasing

        self._transactions.prepare()
        return [step.value for step in finish_erasing(self._transactions.database)]

    def _make_terms(self, keep_digest: bool, *, takes_all: bool = False) -> PurgeTerms:
        return PurgeTerms(keep_digest, not takes_all, takes_all, limits_wait=self._transactions.may_wait)

    def _list_older(self, terms: PurgeTerms, ids: Collection[str] | None) -> builtins.list[str]:
        found = self._transactions.read(purging.list_older, self._owner, terms.only_older)
        return found if ids is None else [id for id in found if id in ids]

    def _purge(self, key: ConversationKey, terms: PurgeTerms) -> PurgeReceipt | None:
        receipt = self._run_unlocked(partial(self._transactions.write, purging.purge, key, terms))
        if isinstance(receipt, ConversationBusy):
            raise receipt
        return receipt

    def _purge_all(
        self,
        ids: Iterable[str],
        terms: PurgeTerms,
        done: _Done,
        *,
        dry_run: bool,
        on_progress: Callable[[int], object] | None,
    ) -> None:
        """Purge conversations, each in a transaction of its own; one that cannot be purged does not stop the others."""
        unreached = 0
        planned: set[str] = set()
        for id in ids:
            key = ConversationKey(self._owner, id)
            try:
                if dry_run:
                    receipt: PurgeReceipt | None = self._transactions.read(purging.plan_purge, key, terms, planned)
                else:
                    receipt = self._purge(key, terms)
            except ConversationNotFound:
                continue  # somebody else has purged it
            except ConversationBusy:
                done.busy.append(id)
            except ConvstoreError as error:
                if not isinstance(self._transactions, OwnTransactions):
                    raise  # half of it may be done: the caller must roll back
                done.failures.append((id, error))
                unreached = unreached + 1 if isinstance(error, DatabaseUnavailable) else 0
                if unreached == _GIVES_UP_AFTER:
                    break
            else:
                unreached = 0
                planned.add(id)
                done.receipts += [receipt] if receipt is not None else []
            if on_progress is not None:
                on_progress(len(done.receipts))

    def _finish(self, done: _Done, *, overwrites: bool = True) -> None:
        """Overwrite what was purged, unless the caller's transaction has yet to end; tell what is left to do.

        Raises:
            PurgeUnfinished: something is left.
        """
        left: builtins.list[str] = []
        trouble: DatabaseUnavailable | None = None
        if overwrites and done.receipts and isinstance(self._transactions, OwnTransactions):
            try:
                left = self.finish_purge()
            except DatabaseUnavailable as error:  # the receipts must not be lost
                left, trouble = [step.value for step in ErasureStep], error
        problems: builtins.list[str] = []
        if done.busy:
            reason = "because a turn of it or of a fork of it is running"
            problems.append(f"{len(done.busy)} not purged, {reason}: {_name(done.busy)}")
        if done.failures:
            named = _name(id for id, _ in done.failures)
            problems.append(f"{len(done.failures)} not purged: {named} ({done.failures[0][1]})")
        if trouble is not None:
            problems.append(f"the rows are gone, but not overwritten yet ({trouble})")
        elif left:
            problems.append(
                "the rows are gone, but others use the database file, and what was in them is not overwritten yet "
                f"({', '.join(left)}): finish the purge when they have ended"
            )
        if problems:
            raise PurgeUnfinished("; ".join(problems), done.receipts, done.busy, left, done.failures) from trouble


def _name(ids: Iterable[str]) -> str:
    named = [repr(id) for id in islice(ids, 6)]
    return ", ".join(named[:5]) + (" …" if len(named) > 5 else "")


def _find_moment(age: timedelta | datetime) -> datetime:
    if isinstance(age, datetime):
        if age.tzinfo is None:
            raise InvalidInput("the moment needs a time zone")
        return age
    if age < timedelta():
        raise InvalidInput("the age must not be negative")
    return datetime.now(UTC) - age


def _check_covers(covers: str) -> Retained:
    try:
        return Retained(covers)
    except ValueError:
        raise InvalidInput(f"a rule covers 'all' or 'deleted' conversations, not {covers!r:.40}") from None
