"""Find the stored path that the list of messages of a client begins with, so that only what is new is stored.

A match ends with a reply that convstore itself recorded, for the same key and user. A reply that only came in a list
never ends one: equal beginnings of two people stay two conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from convstore.db.client_request_rows import RequestFinder, find_by_asked, find_by_replies, find_by_tail, find_context
from convstore.db.head_rows import read_head
from convstore.db.history_rows import read_path
from convstore.db.message_rows import find_message
from convstore.db.redaction_rows import read_marks
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.joined_items import join_messages, list_runs
from convstore.messages.matching_form import (
    CONTEXT_ROLES,
    LEAST_EXCHANGES,
    ListedPath,
    count_exchanges,
    digest_last_exchanges,
    make_matching_form,
)
from convstore.messages.message import Message
from convstore.values.client_request import AskedPath, ClientRequest
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.results import MessageRecord

_FIRST_LOOK, _LATER_LOOK = 4, 256
"""How many replies of a list are looked for at once. The first look nearly always finds the latest one."""
_ACTIVE = timedelta(hours=24)
_SLACK_MESSAGES = 16
"""System messages between the others that are read besides, in a path that a list may be the end of."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request of a client goes on."""

    key: ConversationKey
    after: MessageRecord | None
    """The message that the new ones follow; None: they begin a path."""
    new: tuple[Message, ...]
    """What is new of the list."""
    asked: AskedPath
    records: tuple[MessageRecord, ...] = ()
    """The new messages, if they are stored already: the same was asked before."""
    is_repeatable: bool = True
    """Whether a digest of the whole body may be stored: not if it has a text that was redacted here."""


def match_list(work: UnitOfWork, listed: ListedPath, finder: RequestFinder, *, matches_cut: bool) -> Match | None:
    """Return where a list goes on; None if it is a new conversation.

    Args:
        matches_cut: whether a list without its beginning may go on in the one conversation that ends with it.
    """
    context = listed.context_digest
    for place, found in _find_longest(work, listed, finder):
        asked = find_by_asked(work.connection, finder, listed.digest)
        for request in (one for one in asked if one.context == context):
            match = _match_asked(work, listed, request, place)
            if match is not None:
                return match
        redacted = _match_redacted(work, listed, found[0], place)
        if redacted is not None:
            return redacted
        for request in found:
            assert request.reply_seq is not None  # noqa: S101 (for the type checker: it was found by its reply)
            after = _read_message(work, request.key, request.reply_seq)
            if after is not None:
                return Match(
                    request.key,
                    after,
                    _list_new(listed, place + 1, is_context_known=request.context == context),
                    make_asked_path(listed),
                )
    return _match_end(work, listed, finder) if matches_cut else None


def match_in_conversation(work: UnitOfWork, listed: ListedPath, key: ConversationKey) -> Match:
    """Return where a list goes on in the conversation that a caller names.

    It goes on after the longest beginning that is a recorded path, else the head's; or at the head if its own messages
    before the question are the last ones there; else it begins a path.
    """
    finder = RequestFinder(key.owner, b"", key.id)
    match = match_list(work, listed, finder, matches_cut=False)
    if match is not None:
        return match
    head, lineage = read_head(work.connection, key)
    most = len(listed.messages) + _SLACK_MESSAGES
    path = read_path(work.connection, lineage, head.seq, None if head.position <= most else most)
    return _match_beginning(listed, path, key) or _match_last(work, listed, path, key) or make_first(listed, key)


def make_first(listed: ListedPath, key: ConversationKey) -> Match:
    """Return the place of a list that begins a path."""
    return Match(key, None, (*listed.context, *listed.messages), make_asked_path(listed))


def make_asked_path(listed: ListedPath) -> AskedPath:
    """Return the digests by which a list, and later its reply, is found."""
    return AskedPath(listed.digest or None, digest_last_exchanges(listed.messages), listed.context_digest)


def _find_longest(
    work: UnitOfWork, listed: ListedPath, finder: RequestFinder
) -> Iterator[tuple[int, list[ClientRequest]]]:
    """Yield the requests by the replies of a list, the longest beginning first, with the place of the reply."""
    places = listed.list_reply_places()
    begin = 0
    while begin < len(places):
        some = places[begin : begin + (_FIRST_LOOK if begin == 0 else _LATER_LOOK)]
        begin += len(some)
        found = find_by_replies(work.connection, finder, [listed.digests[place] for place in some])
        for place in some:
            requests = [one for one in found if one.reply_digest == listed.digests[place]]
            if requests:
                yield place, requests


def _match_redacted(work: UnitOfWork, listed: ListedPath, request: ClientRequest, place: int) -> Match | None:
    """Return where a list goes on that still has the text of messages that were redacted here; None: it has none.

    What follows the reply on the path to the head is compared; a redacted message matches any of its role.
    """
    rest = [one for one in enumerate(listed.messages[place + 1 :], place + 1) if one[1]["role"] not in CONTEXT_ROLES]
    if not any(message["role"] == "assistant" for _, message in rest):
        return None
    head, lineage = read_head(work.connection, request.key)
    path = read_path(work.connection, lineage, head.seq)
    begin = next((number for number, record in enumerate(path, 1) if record.seq == request.reply_seq), None)
    if begin is None:
        return None
    marks = read_marks(work.connection, lineage, [record.seq for record in path])
    if not marks:
        return None
    compared = [record for record in path[begin:] if record.message["role"] not in CONTEXT_ROLES]
    after: tuple[int, MessageRecord] | None = None
    has_redacted = False
    for (number, message), record in zip(rest, compared, strict=False):
        is_same_role = record.message["role"] == message["role"]
        if not _is_same(record.message, message) and not (record.seq in marks and is_same_role):
            break
        has_redacted = has_redacted or record.seq in marks
        if message["role"] == "assistant":
            after = number, record
    if after is None or not has_redacted:
        return None
    return _go_on_after_redacted(work, listed, request.key, after, path)


def _go_on_after_redacted(
    work: UnitOfWork,
    listed: ListedPath,
    key: ConversationKey,
    after: tuple[int, MessageRecord],
    path: Sequence[MessageRecord],
) -> Match:
    number, record = after
    context = find_context(work.connection, key, record.seq)
    known = {make_matching_form(one.message) for one in path}
    is_known = (
        context == listed.context_digest
        or (context is None and _has_redacted_context(work, key, path))
        or all(make_matching_form(message) in known for message in listed.context)
    )
    new = _list_new(listed, number + 1, is_context_known=is_known)
    return Match(key, record, new, AskedPath(None, None, listed.context_digest), is_repeatable=False)


def _has_redacted_context(work: UnitOfWork, key: ConversationKey, path: Sequence[MessageRecord]) -> bool:
    """Return True if a system or developer message of a path was redacted."""
    seqs = [record.seq for record in path if record.message["role"] in CONTEXT_ROLES]
    lineage = read_stored_lineage(work.connection, key)
    return lineage is not None and bool(read_marks(work.connection, lineage, seqs))


def _match_asked(work: UnitOfWork, listed: ListedPath, request: ClientRequest, place: int) -> Match | None:
    """Return the place of a list that was asked before; None if its own system messages were not."""
    new = listed.messages[place + 1 :]
    count = sum(1 for message in new if message["role"] not in CONTEXT_ROLES)
    records = _read_end(work, request.key, request.asked_seq, count)
    forms = {make_matching_form(record.message) for record in records}
    if not records or any(make_matching_form(message) not in forms for message in new):
        return None
    after = _read_message(work, request.key, records[0].parent_seq) if records[0].parent_seq != NO_SEQ else None
    return Match(request.key, after, tuple(new), make_asked_path(listed), tuple(records))


def _read_end(work: UnitOfWork, key: ConversationKey, last: Seq, count: int) -> list[MessageRecord]:
    """Return the last `count` compared messages up to `last`, with the others between and before them."""
    lineage = read_stored_lineage(work.connection, key)
    if lineage is None or count == 0:
        return []
    path = read_path(work.connection, lineage, last, count + _SLACK_MESSAGES)
    begin = len(path)
    while begin > 0 and (count > 0 or path[begin - 1].message["role"] in CONTEXT_ROLES):
        begin -= 1
        count -= path[begin].message["role"] not in CONTEXT_ROLES
    return path[begin:]


def _match_beginning(listed: ListedPath, path: Sequence[MessageRecord], key: ConversationKey) -> Match | None:
    """Return the place after the longest beginning that a list and the path to the head have in common."""
    if not path or path[0].parent_seq != NO_SEQ:
        return None
    place, after = 0, None
    context = [record.message for record in path if record.message["role"] in CONTEXT_ROLES]
    for said, record in _join_items(path):
        if said["role"] in CONTEXT_ROLES:
            continue
        while place < len(listed.messages) and listed.messages[place]["role"] in CONTEXT_ROLES:
            place += 1
        # The last message of the list is the question: asked again, it gets a place of its own.
        if place >= len(listed.messages) - 1 or not _is_same(said, listed.messages[place]):
            break
        place, after = place + 1, record
    if after is None:
        return None
    known = {make_matching_form(message) for message in context}
    is_known = all(make_matching_form(message) in known for message in listed.context)
    return Match(key, after, _list_new(listed, place, is_context_known=is_known), make_asked_path(listed))


def _match_end(work: UnitOfWork, listed: ListedPath, finder: RequestFinder) -> Match | None:
    """Return the head of the one conversation that ends with what a list has before its question."""
    history = _list_history(listed)
    if not listed.begins_with_user() or count_exchanges(history) < LEAST_EXCHANGES:
        return None
    tail = digest_last_exchanges(history)
    if tail is None:
        return None
    matches = []
    for request in find_by_tail(work.connection, finder, tail, work.now - _ACTIVE):
        head, lineage = read_head(work.connection, request.key)
        path = read_path(work.connection, lineage, head.seq, len(history) + _SLACK_MESSAGES)
        match = _match_last(work, listed, path, request.key)
        if match is not None:
            matches.append(match)
    return matches[0] if len(matches) == 1 else None


def _match_last(
    work: UnitOfWork, listed: ListedPath, path: Sequence[MessageRecord], key: ConversationKey
) -> Match | None:
    """Return the head if a list has, before its question, exactly the last messages of the path to it."""
    history = [message for message in _list_history(listed) if message["role"] not in CONTEXT_ROLES]
    compared = [(said, record) for said, record in _join_items(path) if said["role"] not in CONTEXT_ROLES]
    if not history or not listed.begins_with_user() or len(compared) < len(history):
        return None
    ends = compared[len(compared) - len(history) :]
    other = [record.seq for (said, record), sent in zip(ends, history, strict=True) if not _is_same(said, sent)]
    if other:  # a client may still have the text of messages that were redacted here
        lineage = read_stored_lineage(work.connection, key)
        if lineage is None or not set(other) <= read_marks(work.connection, lineage, other).keys():
            return None
    after = path[-1]
    context = find_context(work.connection, key, after.seq)
    is_known = context == listed.context_digest or (context is None and _has_redacted_context(work, key, path))
    new = _list_new(listed, len(_list_history(listed)), is_context_known=is_known)
    # The digest of this list is of no beginning, and perhaps of a text that was redacted.
    tail = digest_last_exchanges([*(said for said, _ in ends), *new])
    asked = AskedPath(None, tail, listed.context_digest)
    return Match(key, after, new, asked, is_repeatable=not other)


def _join_items(path: Sequence[MessageRecord]) -> list[tuple[Message, MessageRecord]]:
    """Return what the messages of a path say, each with its last record: the items of a reply are one message."""
    messages, found = [record.message for record in path], []
    for begin, end in list_runs(messages):
        (said,) = join_messages(messages[begin:end]) or (None,)
        if said is not None:
            found.append((said, path[end - 1]))
    return found


def _list_history(listed: ListedPath) -> tuple[Message, ...]:
    """Return the messages up to the model's last one: what follows is new."""
    last = next(iter(listed.list_reply_places()), -1)
    return listed.messages[: last + 1]


def _list_new(listed: ListedPath, place: int, *, is_context_known: bool) -> tuple[Message, ...]:
    return (*(() if is_context_known else listed.context), *listed.messages[place:])


def _is_same(stored: Message, sent: Message) -> bool:
    return make_matching_form(stored) == make_matching_form(sent)


def _read_message(work: UnitOfWork, key: ConversationKey, seq: Seq) -> MessageRecord | None:
    lineage = read_stored_lineage(work.connection, key)
    return find_message(work.connection, lineage, seq) if lineage is not None else None
