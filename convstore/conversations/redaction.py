"""Redacting a message: its text, or parts of it, are removed for good from its row and from all its copies.

What is removed is decided before the transaction that removes it, so that a slow pattern keeps nobody waiting. That
transaction does everything: it is done, or nothing is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from convstore.context.summary_plan import count_summary_tokens
from convstore.conversations.purging import keep_known_kind
from convstore.conversations.redacted_requests import forget_requests
from convstore.conversations.text_pattern import TextPattern
from convstore.db.ancestors import read_message_at
from convstore.db.covering_summaries import delete_covering_summaries, remove_from_summaries
from convstore.db.erased_rows import lock_erasable
from convstore.db.erased_terms import check_erasable
from convstore.db.erasure_steps import mark_steps, overwrite_deleted
from convstore.db.fork_family import ForkFamily, group_by_conversation, read_family
from convstore.db.fork_sharing import find_message_home
from convstore.db.head_rows import read_head_seq
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.message_blanking import BlankedMessage, blank_messages
from convstore.db.quote_removal import (
    Removal,
    delete_left_deltas,
    remove_from_conversations,
    remove_from_errors,
    remove_from_ratings_and_tags,
    remove_from_requests,
    remove_from_turns,
)
from convstore.db.redaction_rows import mark_messages
from convstore.db.row_errors import damaged_row
from convstore.db.secret_places import Occurrence, find_copies, find_occurrences, read_kept_message
from convstore.db.text_occurrences import (
    CONVERSATIONS,
    DELTAS,
    RATINGS,
    REQUESTS,
    SUMMARIES,
    TAGS,
    TURNS,
    find_rows_of,
    list_spellings,
)
from convstore.db.tombstone_rows import put_tombstone
from convstore.db.unit_of_work import UnitOfWork
from convstore.db.unused_attachments import delete_unused
from convstore.errors import ConversationBusy, ConversationNotFound, InvalidInput
from convstore.leases.takeover import free_from_dead_turn
from convstore.messages.redacted_message import Secret, make_matched_secret, make_whole_secret
from convstore.values.identifiers import ConversationKey, Position, Seq
from convstore.values.redaction_report import MessagePlace, Redaction, RedactionExtent, RedactionMark
from convstore.values.results import ErasureReason


@dataclass(frozen=True, slots=True)
class RedactionPlan:
    """What is to be redacted."""

    key: ConversationKey
    """The conversation that the caller named."""
    position: Position
    home: ConversationKey
    """The conversation that keeps the message."""
    seq: Seq
    parent_seq: Seq
    secret: Secret
    is_whole: bool
    everywhere: bool

    @property
    def extent(self) -> RedactionExtent:
        """How much of the message is redacted."""
        return RedactionExtent.MESSAGE if self.is_whole else RedactionExtent.PART


def plan_redaction(
    work: UnitOfWork, key: ConversationKey, position: Position, pattern: TextPattern | None, *, everywhere: bool
) -> RedactionPlan:
    """Return what is to be redacted. Only reads.

    Raises:
        InvalidInput: the path has no such position, or the pattern matches nothing of the message.
    """
    head, lineage = read_head_seq(work.connection, key)
    record = read_message_at(work.connection, lineage, head, position)
    if pattern is None:
        secret: Secret | None = make_whole_secret(record.message)
    else:
        secret = make_matched_secret(record.message, pattern.find, pattern.substitute)
    if secret is None:
        raise InvalidInput(f"conversation {key.id!r}: the pattern matches nothing of message {position}")
    if secret.blanked == record.message:
        raise InvalidInput(f"conversation {key.id!r}: message {position} has no text that is not redacted already")
    home = find_message_home(work.connection, lineage, record.seq)
    return RedactionPlan(
        key, position, home, record.seq, record.parent_seq, secret, is_whole=pattern is None, everywhere=everywhere
    )


def preview_redaction(work: UnitOfWork, plan: RedactionPlan) -> Redaction:
    """Return what a redaction would do. Only reads."""
    family = read_family(work.connection, plan.key.owner)
    copies = _find_copies(work, plan, family)
    others = find_occurrences(work.connection, plan.key.owner, plan.secret, except_for=copies.keys())
    redacted = [*copies.values(), *(others if plan.everywhere else ())]
    return Redaction(
        conversation=plan.key.id,
        position=plan.position,
        extent=plan.extent,
        redacted=tuple(one.place for one in redacted),
        others=() if plan.everywhere else tuple(one.place for one in others),
    )


def find_rest(work: UnitOfWork, plan: RedactionPlan, done: Redaction) -> Redaction:
    """Return a redaction with the messages in which the text still occurs. Only reads."""
    others = find_occurrences(work.connection, plan.key.owner, plan.secret)
    return replace(done, others=tuple(one.place for one in others))


def redact(work: UnitOfWork, plan: RedactionPlan, *, limits_wait: bool) -> Redaction | ConversationBusy | None:
    """Remove a secret from a message and its copies, with everything that was made of them.

    Return an error if a turn is running in a conversation that has the message: nothing was changed. It is not raised,
    because a caller does not wait for a turn as it waits for another transaction. Done again, it finds nothing to do.

    Return None if another transaction changed the message, or moved it, after the plan was made: nothing was changed,
    and another plan is needed.

    Args:
        limits_wait: whether the wait for locks of others is limited: not in the caller's own transaction.

    Raises:
        ConversationBusy: another transaction holds a conversation that has the message.
        DatabaseUnavailable: this SQLite cannot take words out of the search index.
        DamagedRow: the message is damaged.
    """
    if limits_wait:
        limit_lock_wait(work.connection)
    check_erasable(work.connection)
    overwrite_deleted(work.connection)
    try:
        locked = _lock_all(work, plan)
    except _TurnRunning as error:
        return ConversationBusy(str(error))
    except ConversationNotFound:
        return None  # it was purged meanwhile; a fork of it may keep the message now
    found = read_kept_message(work.connection, plan.home, plan.seq)
    # It is blanked already if this unit of work has been committed before, and is repeated.
    if found is None or found not in (plan.secret.original, plan.secret.blanked):
        return None
    connection, owner = work.connection, plan.key.owner
    spellings, ids = list_spellings(plan.secret), locked.ids
    done = blank_messages(work, owner, plan.secret, locked.targets, locked.family)
    places = [MessagePlace(one.key.id, one.seq, one.position, one.role) for one in done.messages]
    if not any((place.conversation, place.seq) == (plan.home.id, plan.seq) for place in places):
        if found == plan.secret.original:
            raise damaged_row(plan.home.id, f"message seq {plan.seq} is damaged and cannot be redacted")
        places.insert(0, MessagePlace(plan.home.id, plan.seq, plan.position, str(found["role"])))
    copies = [one for one in done.messages if one.is_copy]
    removal = Removal(connection, owner, plan.secret, spellings, ids | locked.others if plan.everywhere else ids)
    remove_from_turns(removal, done.messages, is_whole=plan.is_whole)
    if plan.is_whole:
        remove_from_errors(removal, copies, ids)
    delete_left_deltas(connection, owner, ids)
    forget_requests(work, owner, _find_first(done.messages), locked.family)
    summaries = delete_covering_summaries(connection, owner, copies, ids) if plan.is_whole else set()
    summaries |= remove_from_summaries(
        connection, owner, plan.secret, spellings, removal.ids, lambda text: count_summary_tokens(work, text)
    )
    remove_from_ratings_and_tags(removal)
    remove_from_requests(removal)
    remove_from_conversations(removal, _find_titling(locked.family, done.messages), done.messages)
    attachments, _ = delete_unused(connection, owner, done.attachments)
    _mark(work, plan, done.messages, {*ids, *removal.changed_conversations})
    mark_steps(connection, work.now)
    return Redaction(
        conversation=plan.key.id,
        position=plan.position,
        extent=plan.extent,
        redacted=tuple(places),
        others=(),
        digests=done.digests,
        turns=len(removal.changed_turns),
        summaries=len(summaries),
        conversations=len(removal.changed_conversations),
        attachments=attachments,
        redacted_at=work.now,
    )


def _find_first(messages: Iterable[BlankedMessage]) -> dict[str, Seq]:
    """Return the first message that was rewritten, by the conversation that keeps it."""
    first: dict[str, Seq] = {}
    for message in messages:
        first[message.key.id] = min(message.seq, first.get(message.key.id, message.seq))
    return first


@dataclass(frozen=True, slots=True)
class _Locked:
    """What is to be changed, and nobody else changes."""

    family: ForkFamily
    targets: Mapping[str, set[Seq]]
    """The messages to rewrite, by the conversation that keeps them."""
    ids: set[str]
    """The conversations that have one of these messages. No turn runs in them."""
    others: set[str]
    """All others with rows that may be changed; turns may run in them."""


def _lock_all(work: UnitOfWork, plan: RedactionPlan) -> _Locked:
    """Lock the conversations that have rows to change, and find the messages to rewrite.

    A conversation is locked before it is looked through: the turn of a dead process becomes a message then.

    Raises:
        _TurnRunning: a turn is running in one that has a message to rewrite.
        ConversationBusy: another transaction holds one of them.
        ConversationNotFound: one of them was purged meanwhile.
    """
    owner = plan.key.owner
    locked: set[str] = set()
    others: set[str] = set()
    needed = {plan.home.id}
    family = read_family(work.connection, owner)
    while True:
        with_forks = set(family.list_sharing(plan.home.id, plan.seq)) | needed
        for id in sorted(with_forks - locked):
            _lock(work, ConversationKey(owner, id))
        locked |= with_forks
        beside = _list_beside(work, plan, family, locked) - locked
        for id in sorted(beside - others):
            lock_erasable(work.connection, ConversationKey(owner, id))
        others |= beside
        family = read_family(work.connection, owner)
        found = _find_copies(work, plan, family)
        if plan.everywhere:
            found |= {(one.place.conversation, one.place.seq): one for one in _find_all(work, plan)}
        needed = _list_conversations(family, found.values())
        if plan.everywhere:
            pieces = find_rows_of(work.connection, DELTAS, owner, list_spellings(plan.secret), None)
            needed |= {row.conversation_id for row in pieces}
        if needed <= locked and _list_beside(work, plan, family, locked) <= locked | others:
            return _Locked(family, group_by_conversation(found), locked, others - locked)


def _list_beside(work: UnitOfWork, plan: RedactionPlan, family: ForkFamily, ids: set[str]) -> set[str]:
    """Return the forks of conversations, which took over titles and metadata, and others with the text in such rows."""
    beside = set(family.list_with_forks(ids))
    if plan.everywhere:
        spellings = list_spellings(plan.secret)
        for place in (CONVERSATIONS, TURNS, SUMMARIES, RATINGS, TAGS, REQUESTS):
            rows = find_rows_of(work.connection, place, plan.key.owner, spellings, None)
            beside |= {row.conversation_id for row in rows}
    return beside


def _find_all(work: UnitOfWork, plan: RedactionPlan) -> list[Occurrence]:
    return find_occurrences(work.connection, plan.key.owner, plan.secret)


def _find_copies(work: UnitOfWork, plan: RedactionPlan, family: ForkFamily) -> dict[tuple[str, Seq], Occurrence]:
    ids = family.list_sharing(plan.home.id, plan.seq)
    last = dict(family.list_origins(plan.home.id))
    found = find_copies(work.connection, plan.key.owner, plan.secret, plan.parent_seq, dict.fromkeys([*ids, *last]))
    # Of an origin, only what the conversation shares: the rest is not its past.
    return {(id, seq): one for (id, seq), one in found.items() if id in ids or seq <= last[id]}


def _list_conversations(family: ForkFamily, found: Collection[Occurrence]) -> set[str]:
    """Return the conversations that have one of some messages: those that keep them, and forks that share them."""
    firsts: dict[str, Seq] = {}
    for one in found:
        id, seq = one.place.conversation, one.place.seq
        firsts[id] = min(seq, firsts.get(id, seq))
    return {sharing for id, seq in firsts.items() for sharing in family.list_sharing(id, seq)}


class _TurnRunning(Exception):
    """A turn is running."""


def _lock(work: UnitOfWork, key: ConversationKey) -> None:
    """Keep others from changing or forking a conversation; end its turn if the process of the turn has died.

    Raises:
        _TurnRunning: a turn of it is running.
        ConversationBusy: another transaction holds it.
    """
    row = lock_erasable(work.connection, key)
    if row.is_held and not row.is_deleted:
        try:
            free_from_dead_turn(work, key)
        except ConversationBusy as error:
            raise _TurnRunning(str(error)) from error
        lock_erasable(work.connection, key)


def _find_titling(family: ForkFamily, blanked: Collection[BlankedMessage]) -> dict[str, BlankedMessage | None]:
    """Return the conversations that have one of some messages, each with the one that its title may be made of.

    All forks of them are among them: one that does not share the message may have taken over the title.
    """
    found: dict[str, BlankedMessage | None] = {}
    for one in blanked:
        for id in family.list_with_forks([one.key.id]):
            found[id] = one if one.beginning is not None and found.get(id) is None else found.get(id)
    return found


def _mark(work: UnitOfWork, plan: RedactionPlan, blanked: Collection[BlankedMessage], ids: Collection[str]) -> None:
    whole, part = RedactionExtent.MESSAGE, RedactionExtent.PART
    marks = [
        (one.key, one.seq, RedactionMark(whole if plan.is_whole and one.is_copy else part, work.now)) for one in blanked
    ]
    mark_messages(work.connection, marks)
    for id in sorted(ids):
        key = ConversationKey(plan.key.owner, id)
        kind = keep_known_kind(lock_erasable(work.connection, key, locks=False).source_kind)
        put_tombstone(work.connection, key, ErasureReason.REDACTED, kind, work.now)
