"""The beginning of a turn with a list of messages that a client sent: only what is new of it is stored.

In one transaction: look whether the request is a repetition, find the stored path that the list begins with, claim its
conversation, store the new messages and the turn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from convstore.conversations.creation import create_conversation
from convstore.conversations.drawer import archive
from convstore.conversations.earlier_requests import find_earlier
from convstore.conversations.forks import ForkRequest, fork
from convstore.conversations.path_matching import Match, make_first, match_in_conversation, match_list
from convstore.conversations.sent_differences import list_differences
from convstore.db.client_request_rows import RequestFinder, insert_request
from convstore.db.conversation_writes import NewConversation
from convstore.db.dialect import is_sqlite
from convstore.db.head_rows import Head
from convstore.db.lease_rows import Claim, Lease
from convstore.db.message_rows import read_messages
from convstore.db.message_writes import Place, insert_messages
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.turn_writes import insert_running_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationBusy, ConversationNotFound, DamagedRow, DatabaseUnavailable
from convstore.leases.claims import claim_conversation
from convstore.messages.codec import digest
from convstore.messages.first_title import find_title
from convstore.messages.matching_form import ListedPath
from convstore.messages.message import Message
from convstore.messages.token_counters import make_caching_counter
from convstore.messages.token_estimate import TOKENS_PER_REQUEST
from convstore.turns.turn_start import BegunTurn
from convstore.values.client_request import SentBody
from convstore.values.identifiers import NO_SEQ, ConversationKey
from convstore.values.results import UNCHANGED, MessageRecord, Turn
from convstore.values.turn_outcome import RunningTurn
from convstore.values.window_report import WindowReport

_logger = logging.getLogger(__name__)

SIDE_REQUEST = "side_request"
"""The field of metadata that says that a program asked on the side: the conversation that it named, or true."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request for a completion, as a client sent it with all its messages."""

    owner: str
    listed: ListedPath
    parameters: Mapping[str, Any]
    """Everything in the body but the messages."""
    body: SentBody
    new_id: str
    """The id of the conversation that is made if the list goes on in none; or of the fork, if a turn runs there."""
    conversation: str | None = None
    """The conversation that the client names."""
    creates: bool = False
    """Whether a conversation of that name is made if it does not exist."""
    matches_cut: bool = True
    """Whether a list without its beginning may go on where its messages are the last ones."""
    is_repetition: bool = False
    """Whether the client's library says that it sends a request once more."""

    is_side_request: bool = False
    """Whether a program asks on the side, for a title or tags: it is kept apart, and never goes on anywhere."""

    @property
    def streams(self) -> bool:
        """Whether the reply comes in pieces."""
        return self.parameters.get("stream") is True

    def repeat(self, new_id: str) -> RecordedRequest:
        """Return the request for another try, after the one that it repeats has failed."""
        return replace(self, new_id=new_id, is_repetition=False)

    def start(self, work: UnitOfWork, lease: Lease) -> BegunTurn | Turn:
        """Do what `start_recorded_turn` does."""
        return start_recorded_turn(work, self, lease)


@dataclass(frozen=True, slots=True)
class RecordedTurn(BegunTurn):
    """A stored turn with a client's own list of messages."""

    notes: tuple[str, ...]
    """What the client sent of known messages besides what is compared."""


def start_recorded_turn(work: UnitOfWork, request: RecordedRequest, lease: Lease) -> BegunTurn | Turn:
    """Store what is new of a client's list, and the turn.

    Returns:
        The started turn; or the earlier turn that this request repeats, running or completed.

    Raises:
        ConversationNotFound: the named conversation does not exist.
        ConversationBusy: a turn runs in the named conversation.
        IdempotencyMismatch: the idempotency key was used for another body.
    """
    earlier = find_earlier(
        work, request.owner, request.listed.digest, request.body, is_repetition=request.is_repetition
    )
    if earlier is not None:
        return earlier
    work = replace(work, count_tokens=make_caching_counter(work.count_tokens))
    match = _find_place(work, request)
    claim, match = _claim(work, request, match, lease)
    _check_unchanged(work, claim, match)
    records: list[MessageRecord] = list(match.records)
    if not records and match.new:
        place = Place(claim.first_seq, match.after, claim.turn)
        records = insert_messages(work, claim.lineage.key, match.new, place)
    after = records[-1] if records else match.after
    turn = RunningTurn(
        key=claim.lineage.key,
        seq=claim.turn,
        token=lease.token,
        base_seq=claim.head_seq if records else (after.seq if after is not None else NO_SEQ),
        first_input_seq=records[0].seq if records else None,
        last_input=after,
        request=dict(request.parameters),
        window=WindowReport(match.after.position if match.after is not None else 0, None, None),
        estimated_tokens=_estimate_tokens(work, request),
        started_at=work.now,
        asked=match.asked,
    )
    insert_running_turn(work.connection, turn)
    body = request.body if match.is_repeatable else replace(request.body, digest=None)
    asked_seq = after.seq if after is not None else NO_SEQ
    insert_request(work.connection, turn.key, turn.seq, asked_seq, match.asked, body, work.now)
    return RecordedTurn(turn, list_differences(work, request.listed, match))


def _estimate_tokens(work: UnitOfWork, request: RecordedRequest) -> int | None:
    """Return the tokens of a request; None: the provider will report them, and all messages need not be counted."""
    options = request.parameters.get("stream_options")
    if not request.streams or (isinstance(options, Mapping) and options.get("include_usage")):
        return None
    messages = (*request.listed.context, *request.listed.messages)
    return TOKENS_PER_REQUEST + sum(work.count_tokens(message) for message in messages)


def _find_place(work: UnitOfWork, request: RecordedRequest) -> Match:
    model = request.parameters.get("model")
    new_key = ConversationKey(request.owner, request.new_id)
    if request.is_side_request:
        create_for_client(work, new_key, model, {SIDE_REQUEST: request.conversation or True})
        archive(work, new_key)
        first = make_first(request.listed, new_key)
        return replace(first, asked=replace(first.asked, tail=None))
    if request.conversation is None:
        finder = RequestFinder(request.owner, request.body.sender)
        try:
            found = match_list(work, request.listed, finder, matches_cut=request.matches_cut)
        except DamagedRow as error:  # it must not keep the client from asking
            _logger.warning("a list of messages goes on in no conversation: %s", type(error).__name__)
            found = None
        if found is not None:
            return found
        create_for_client(work, new_key, model)
        return make_first(request.listed, new_key)
    key = ConversationKey(request.owner, request.conversation)
    if request.creates and read_stored_lineage(work.connection, key) is None:
        create_for_client(work, key, model)
        return make_first(request.listed, key)
    return match_in_conversation(work, request.listed, key)


def create_for_client(
    work: UnitOfWork, key: ConversationKey, model: object, metadata: Mapping[str, Any] | None = None
) -> None:
    """Create a conversation for what a client of the service begins; with the model, so that others can go on."""
    settings = {"model": model} if isinstance(model, str) else {}
    content: dict[str, Any] = {
        "name": None,
        "title": None,
        "settings": settings,
        "metadata": dict(metadata or {}),
        "first": [],
    }
    create_conversation(
        work, NewConversation(key=key, window={}, made_title=None, digest=digest(b"", content), **content)
    )


def _claim(work: UnitOfWork, request: RecordedRequest, match: Match, lease: Lease) -> tuple[Claim, Match]:
    """Claim the conversation of a match; if a turn runs there and the client did not name it, a fork of it."""
    title = find_title(match.new)
    count = 0 if match.records else len(match.new)
    try:
        return claim_conversation(work, match.key, lease, count, made_title=title), match
    except ConversationBusy:
        if request.conversation is not None or match.after is None:
            raise
    except ConversationNotFound:
        if request.conversation is not None:
            raise
        raise _make_changed() from None
    key = ConversationKey(request.owner, request.new_id)
    try:
        # Nothing is copied. What the running turn asks is not shared: it stays where it is.
        fork(work, match.key, ForkRequest(key.id, None, UNCHANGED, at=Head(match.after.seq, match.after.position)))
    except (ConversationBusy, ConversationNotFound):
        raise _make_changed() from None
    match = replace(match, key=key, new=_list_unshared(match), records=())
    return claim_conversation(work, key, lease, len(match.new), made_title=title), match


def _check_unchanged(work: UnitOfWork, claim: Claim, match: Match) -> None:
    """Check that the messages of a match are as they were read: on PostgreSQL, that was before the claim.

    Raises:
        DatabaseUnavailable: one was redacted meanwhile; the transaction is repeated.
    """
    known = [record for record in (match.after, *match.records) if record is not None]
    if is_sqlite(work.connection) or not known:
        return
    found = {one.seq: one.digest for one in read_messages(work.connection, claim.lineage, [one.seq for one in known])}
    if any(found.get(record.seq) != record.digest for record in known):
        raise _make_changed()


def _make_changed() -> DatabaseUnavailable:
    """Return the error by which the transaction is repeated, and looks for the conversation once more."""
    return DatabaseUnavailable(
        "another transaction changed the conversation of this request; try again", transient=True
    )


def _list_unshared(match: Match) -> tuple[Message, ...]:
    return tuple(record.message for record in match.records) or match.new
