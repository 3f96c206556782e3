"""The shape of a turn, once: what to do before, during and after the call. Stores drive it, one with `await`.

before   `questions.ask` checks what is asked, without a database. `begin`, in one transaction, takes the conversation,
         puts the user's messages and the turn on record, and returns what to send.
during   nothing of the database is held. An `answers.Answer` keeps the clock, and what has come so far.
after    the `Answer` becomes an `Ending`, which `ledger.recording.end` records in one transaction; `answers.settle`
         returns the turn, or raises what the ending means to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from convstore.context import history_reader as past
from convstore.context.window import Past, Policy, Scale, Sending, Window, choose, merge_options, narrowed, policy
from convstore.db import head_rows, history_rows, lease_rows, message_rows
from convstore.db import turn_rows as ledger
from convstore.db.conversation_rows import get as get_conversation
from convstore.db.fork_sharing import Lineage
from convstore.db.turn_writes import RunningTurn, insert_running
from convstore.errors import HeadMoved, InvalidInput, NotConfigured
from convstore.messages.codec import Message
from convstore.messages.token_estimate import remembering
from convstore.turns.turn_request import Kind, Place, Question, check_editable
from convstore.values.completion_parameters import check_parameters, merge
from convstore.values.results import MessageRecord, Request, Turn, TurnStatus

_ASKING = ("user", "system", "developer")
_LONGEST_INPUT = 16  # messages that are looked at for what was asked under an edited system message


@dataclass(frozen=True, slots=True)
class Lease:
    """With what a turn takes its conversation."""

    token: str
    span: timedelta
    """How long it lasts unless it is renewed."""
    alive: lease_rows.Alive


@dataclass(frozen=True, slots=True)
class Choice:
    """A window, and all that it was chosen from: so that a smaller one can be."""

    window: Window
    past: Past
    sending: Sending
    policy: Policy
    scale: Scale

    def narrower(self, share: float) -> Window | None:
        """Return a window of at most `share` of the tokens; None where nothing can be left out."""
        return narrowed(self.past, self.sending, self.policy, self.scale, self.window, share)


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn on record, and the request that it is about to make."""

    turn: RunningTurn
    request: dict[str, Any]
    options: dict[str, Any]
    choice: Choice


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a question stands in the tree."""

    question: Question
    after: int
    """The message that its own follow; 0: none."""
    records: list[MessageRecord]
    """Its messages, if they are on record already."""


def begin(connection: Connection, owner: str, conversation_id: str, question: Question, lease: Lease) -> Begun | Turn:
    """Take the conversation and put the question on record.

    Returns:
        What to send; or, for an idempotency key that has succeeded before, the turn that it was spent on.

    Raises:
        ConversationNotFound, ConversationBusy: it cannot be taken.
        HeadMoved: it is not as the caller saw it.
        IdempotencyMismatch: the key was used for something else.
        NotConfigured: no model is named anywhere.
        InvalidInput: the sticky parameters break a rule together with the explicit ones; there is nothing to ask again,
            or to go on from; what has to be sent does not fit.
    """
    if question.key is not None and question.digest is not None:
        done = ledger.by_key(connection, owner, conversation_id, question.key, question.digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return done
    if question.instead_of is not None:
        _look_up(connection, owner, conversation_id, question.instead_of)
    question = replace(question, count=remembering(question.count))
    now = datetime.now(UTC)
    claim = lease_rows.claim(
        connection,
        owner,
        conversation_id,
        token=lease.token,
        count=len(question.messages),
        span=lease.span,
        now=now,
        alive=lease.alive,
    )
    lease_rows.check_head(conversation_id, claim.head_seq, question.expected_head)
    asked = _place(connection, claim, question)
    claimed, question, lineage = len(question.messages), asked.question, claim.lineage
    parameters = _parameters(claim.settings, question)
    standing = past.Standing(lineage, asked.after, claim.pins, claim.summary_turn)
    choice = _choose(connection, standing, claim.window, parameters, question)
    last = choice.past.head
    records = asked.records
    if not records and question.messages:
        more = len(question.messages) != claimed
        records = message_rows.add(
            connection,
            lineage,
            question.messages,
            first_seq=lease_rows.take_numbers(connection, owner, conversation_id, len(question.messages))
            if more
            else claim.first_seq,
            after=last,
            turn=claim.turn,
            now=now,
            count=question.count,
        )
    turn = RunningTurn(
        owner=owner,
        conversation_id=conversation_id,
        seq=claim.turn,
        token=lease.token,
        base_seq=claim.head_seq if records else asked.after,
        first_input_seq=records[0].seq if records else None,
        last_input=records[-1] if records else last,
        request=parameters,
        window=choice.window.facts,
        estimated_tokens=choice.window.tokens,
        started_at=now,
        count=question.count,
        idempotency_key=question.key,
        input_digest=question.digest,
    )
    insert_running(connection, turn)
    return Begun(turn, _request(parameters, choice.window), question.options, choice)


def _place(connection: Connection, claim: lease_rows.Claim, question: Question) -> Asked:
    if question.kind is Kind.AGAIN:
        return _again(connection, claim, question)
    if question.kind is Kind.EDIT:
        return _edited(connection, claim, question)
    return Asked(question, claim.head_seq, [])


def _again(connection: Connection, claim: lease_rows.Claim, question: Question) -> Asked:
    """Find what is to be asked again: what the latest turn asked, or after `checkout` what the head's turn asked.

    It is answered where it stands, the new reply a sibling of the old one, while the head is where that turn found or
    left it. Else the latest question is asked anew, with copies of its messages at the head.
    """
    lineage, head = claim.lineage, claim.head_seq
    latest = ledger.latest_asked(connection, lineage.owner, lineage.conversation_id, before=claim.turn)
    inputs = _inputs(connection, lineage, latest) if latest is not None else []
    if latest is not None and head in (latest.base_seq, latest.output_seq, inputs[0].parent_seq if inputs else head):
        return _repeated(question, latest, inputs)
    record = message_rows.at(connection, lineage, head)
    if record is not None and record.turn is not None:
        home = lineage.home_of_turn(record.turn)
        turn = ledger.get(connection, lineage.owner, home, record.turn)
        if turn is not None and turn.window is not None and turn.purpose is None:
            follows = turn.last_input_seq if turn.last_input_seq is not None else turn.base_seq
            if follows in (record.seq, record.parent_seq):
                return _repeated(question, turn, _inputs(connection, lineage, turn))
    if latest is None:
        raise InvalidInput(f"conversation {lineage.conversation_id} has no turn to try again")
    if not inputs:
        raise InvalidInput(
            f"conversation {lineage.conversation_id} has moved on since its latest turn, which had no message of its "
            f"own; say something, or let the model go on (`convstore say --continue`)"
        )
    return replace(_repeated(question, latest, inputs), after=head, records=[])


def _inputs(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    found = message_rows.input_of(connection, lineage, turn)
    if turn.first_input_seq is not None and not found:
        raise message_rows.missing(lineage.conversation_id, turn.first_input_seq)
    return found


def _repeated(question: Question, turn: Turn, inputs: list[MessageRecord]) -> Asked:
    unsaid = {key: value for key, value in turn.request.items() if key not in ("stream", "stream_options")}
    facts = turn.window or {}
    options = dict(facts.get("options", {}))
    if "tokens" not in facts and inputs and not facts.get("history") and inputs[0].parent_seq != 0:
        options["history"] = False  # an earlier release did not put options on record
    repeated = replace(
        question,
        kind=Kind.SAY if inputs else Kind.COMPLETE,
        messages=[record.message for record in inputs],
        parameters=merge(unsaid, question.parameters),
        window={**options, **question.window},
    )
    return Asked(repeated, inputs[0].parent_seq if inputs else turn.base_seq, inputs)


def _look_up(connection: Connection, owner: str, id: str, place: Place) -> None:
    """Find out which message stands at a place, before others are waited for."""
    if place.seq is None:
        state = head_rows.state(connection, owner, id)
        record = past.at_position(connection, state.lineage, state.head, place.position)
        check_editable(id, record)
        place.seq = record.seq


def _edited(connection: Connection, claim: lease_rows.Claim, question: Question) -> Asked:
    """Find where an edited message goes: beside the one that it takes the place of."""
    place, lineage = question.instead_of, claim.lineage
    assert place is not None  # noqa: S101 (for the type checker: an edit has one)
    wanted = range(place.position, place.position + _LONGEST_INPUT)
    path = history_rows.ancestors(connection, lineage, claim.head_seq, wanted)
    if path.get(place.position) != place.seq:
        raise HeadMoved(
            f"conversation {lineage.conversation_id}: position {place.position} is no longer message seq {place.seq}: "
            f"somebody else has moved its head; look again, and repeat"
        )
    found = message_rows.several(connection, lineage, path.values())
    question = replace(question, messages=[_instead(found[0].message, question.messages[0], place)])
    if found[0].message["role"] in ("system", "developer"):
        # It is no question itself: what was asked under it is asked again under the new one.
        following = [record.message for record in found[1:]]
        ends = next((n for n, message in enumerate(following) if message["role"] not in _ASKING), len(following))
        question = replace(question, messages=[*question.messages, *following[:ends]])
    return Asked(question, found[0].parent_seq, [])


def _instead(old: Message, new: Message, place: Place) -> Message:
    if not place.content_only:
        return new
    content, before = new["content"], old.get("content")
    if isinstance(content, str) and isinstance(before, list):  # what is not text stays
        others = [part for part in before if not isinstance(part, dict) or part.get("type") != "text"]
        content = [{"type": "text", "text": content}, *others] if others else content
    return {**old, "content": content}


def preview(connection: Connection, owner: str, conversation_id: str, question: Question) -> Request:
    """Return exactly the request that `begin` would make. Stores nothing.

    Raises:
        As `begin`, but for ConversationBusy.
    """
    conversation = get_conversation(connection, owner, conversation_id)
    state = head_rows.state(connection, owner, conversation_id)
    lease_rows.check_head(conversation_id, state.head, question.expected_head)
    parameters = _parameters(conversation.settings, question)
    standing = past.Standing(state.lineage, state.head, state.pins, state.summary_turn)
    window = _choose(connection, standing, conversation.window, parameters, question).window
    return Request(_request(parameters, window), window.facts)


def preview_new(settings: Mapping[str, Any], options: Mapping[str, Any], question: Question) -> Request:
    """Return exactly the request that a new conversation with these settings would begin with."""
    parameters = _parameters(settings, question)
    chosen = policy(merge_options(options, question.window))
    window = choose(Past(), Sending(question.messages, parameters), chosen, Scale(question.count))
    return Request(_request(parameters, window), window.facts)


def _parameters(settings: Mapping[str, Any], question: Question) -> dict[str, Any]:
    parameters = check_parameters(merge(settings, question.parameters))
    if "model" not in parameters:
        if not question.default_model:
            raise NotConfigured(
                "no model is named: name one for this call (-m MODEL, model=…), for the conversation "
                "(`convstore set -m MODEL`), or for all (CONVSTORE_MODEL)"
            )
        parameters = {"model": question.default_model, **parameters}
    if question.stream:
        # Without being asked, a streamed answer does not say what it cost.
        parameters["stream"] = True
        parameters["stream_options"] = {"include_usage": True, **(parameters.get("stream_options") or {})}
    else:
        parameters.pop("stream_options", None)  # the API refuses it without `stream`
    return parameters


def _choose(
    connection: Connection,
    standing: past.Standing,
    sticky: Mapping[str, Any],
    parameters: Mapping[str, Any],
    question: Question,
) -> Choice:
    """Read what a window may need, and choose it."""
    chosen = policy(merge_options(sticky, question.window))
    if question.kind is Kind.COMPLETE:
        chosen = replace(chosen, history=True)
    new = question.messages
    # Results that come with the question belong to the tool calls before it.
    continues = question.kind is Kind.COMPLETE or (bool(new) and new[0]["role"] == "tool")
    scale = past.scale(connection, standing.lineage, chosen, parameters, question.count)
    found = past.read(connection, standing, chosen, scale, continues=continues)
    if question.kind is Kind.COMPLETE:
        _check_open(standing.lineage, found.head)
    sending = Sending(new, parameters, continues)
    return Choice(choose(found, sending, chosen, scale), found, sending, chosen, scale)


def _check_open(lineage: Lineage, head: MessageRecord | None) -> None:
    if head is None or (head.message["role"] == "assistant" and not head.message.get("tool_calls")):
        what = "has no messages" if head is None else "ends with the model's own message"
        raise InvalidInput(
            f"conversation {lineage.conversation_id} {what}: there is nothing to go on from; say something, "
            f"or ask again for another answer"
        )


def _request(parameters: Mapping[str, Any], window: Window) -> dict[str, Any]:
    return {"model": parameters["model"], "messages": window.messages, **parameters}
