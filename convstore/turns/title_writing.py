"""A title that the model writes: one call, stored as a turn of its own, so that its cost is counted."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from convstore.context.summary_plan import write_transcript
from convstore.db.ancestors import find_ancestors
from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import ConversationChange, change_conversation, take_turn_number
from convstore.db.head_rows import read_state
from convstore.db.message_rows import read_messages, was_redacted
from convstore.db.turn_rows import find_turn, list_turns
from convstore.db.turn_writes import insert_ended_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput, NotConfigured, TurnFailed
from convstore.messages.completion import (
    REDACTED_MEANWHILE,
    Completion,
    NotACompletion,
    make_facts,
    read_completion,
)
from convstore.messages.message import Message, extract_text
from convstore.provider.error_texts import describe_error, format_failure
from convstore.provider.openai_client import build_call_arguments
from convstore.provider.retry_policy import compute_retry_delay
from convstore.turns.call_recorder import NO_FINISH_REASON
from convstore.turns.model_answer import read_whole_answer
from convstore.turns.turn_engine import TurnEngine
from convstore.values.completion_parameters import check_parameters
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import Conversation, MessageRecord, TurnStatus
from convstore.values.steps import CallModel, DatabaseWork, GetClient, Pause, Steps
from convstore.values.turn_outcome import EndedTurn, TurnOutcome

INSTRUCTION = (
    "You name conversations. Answer with a title of at most six words, in the language of the conversation, and "
    "nothing else."
)
_PURPOSE = "title"
_READ_MESSAGES = 8  # of the beginning of the path
_READ_CHARACTERS = 8_000
_MOST_CHARACTERS = 120
_RECENT_TURNS = 8  # number of latest turns in which a turn is searched that was stored a moment ago
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)  # of models that think aloud
_QUOTATION_MARKS = "\"'`*“”„«»「」"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A title to ask for."""

    request: dict[str, Any]
    up_to: MessageRecord
    """The last message that the model reads."""
    title: str | None
    """The title that the conversation was given before."""
    estimated_tokens: int


@dataclass(frozen=True, slots=True)
class _Call:
    """The call that a title was asked with."""

    plan: _Plan
    started_at: datetime
    latency: float
    """Seconds."""


def make_title_parameters(parameters: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """Return the completion parameters of the call, checked.

    Raises:
        InvalidParameter: a value breaks a rule.
    """
    return check_parameters({**parameters, "model": model} if model is not None else parameters)


def write_title(engine: TurnEngine, key: ConversationKey, parameters: Mapping[str, Any]) -> Steps[Conversation]:
    """Let the model write a conversation's title, and return the conversation.

    Raises:
        InvalidInput: the conversation has no messages.
        TurnFailed: the model or its provider failed; the title stays as it is.
    """
    client = yield GetClient()
    transactions = engine.transactions
    yield DatabaseWork(transactions.services.get_prices)  # wrong prices are found before anything is paid for
    plan = yield DatabaseWork(partial(transactions.read, _plan, key, parameters, engine.default_model))
    failures = 0
    while True:
        started_at, began = datetime.now(UTC), time.monotonic()
        try:
            received = yield CallModel(client, build_call_arguments(client, plan.request, {}))
            completion = read_completion((yield from read_whole_answer(received)))
            title = _read_title(completion)
        except Exception as error:
            pause = compute_retry_delay(error, failures) if failures < engine.retries else None
            if pause is None:
                call = _Call(plan, started_at, time.monotonic() - began)
                problem = describe_error(error, client)
                raise (yield DatabaseWork(partial(transactions.write, _store_failure, key, call, problem))) from error
            failures += 1
            yield Pause(pause)
            continue
        call = _Call(plan, started_at, time.monotonic() - began)
        stored: Conversation | TurnFailed = yield DatabaseWork(
            partial(transactions.write_repeatable, _store_title, key, call, completion, title)
        )
        if isinstance(stored, TurnFailed):
            raise stored
        return stored


def _plan(work: UnitOfWork, key: ConversationKey, parameters: Mapping[str, Any], default_model: str | None) -> _Plan:
    conversation = get_conversation(work.connection, key)
    state = read_state(work.connection, key)
    last = min(state.head.position, _READ_MESSAGES)
    places = [Position(place) for place in range(1, last + 1)]
    seqs = find_ancestors(work.connection, state.lineage, state.head.seq, places)
    records = read_messages(work.connection, state.lineage, [seqs[place] for place in places])
    spoken = [record for record in records if record.message["role"] not in ("system", "developer")]
    if not spoken:
        raise InvalidInput(f"conversation {key.id!r} has no messages to make a title of")
    text = write_transcript(spoken)[:_READ_CHARACTERS]
    messages: list[Message] = [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": f"<conversation>\n{text}\n</conversation>\n\nWrite the title."},
    ]
    model = parameters.get("model") or conversation.settings.get("model") or default_model or conversation.model
    if not model:
        raise NotConfigured(
            "no model is named to write the title: name one (model=…, or CONVSTORE_MODEL)", missing="model"
        )
    tokens = sum(work.count_tokens(message) for message in messages)
    return _Plan({**parameters, "model": model, "messages": messages}, records[-1], conversation.given_title, tokens)


def _read_title(completion: Completion) -> str:
    """Return the first line of a reply, without quotation marks around it.

    Raises:
        NotACompletion: the reply has no text, or it may have been cut off.
    """
    if completion.finish_reason is None:
        raise NotACompletion(NO_FINISH_REASON)
    if completion.finish_reason == "length":
        raise NotACompletion("the title was cut off: finish_reason is length")
    text = _THOUGHTS.sub("", extract_text(completion.messages[0]), count=1)
    lines = (_clean(line) for line in text.splitlines())
    line = next((line for line in lines if line), None)
    if line is None:
        raise NotACompletion("the title is empty")
    line = _clean(line.removeprefix("Title:")) or line
    if line.endswith(".") and line.count(".") == 1:  # not that of an abbreviation
        line = line[:-1]
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


def _clean(line: str) -> str:
    """Return a line without what a model puts around a title: quotation marks, signs of a heading."""
    return line.strip().lstrip("#").strip().strip(_QUOTATION_MARKS).strip()


def _make_turn(work: UnitOfWork, key: ConversationKey, call: _Call) -> EndedTurn:
    return EndedTurn(
        key=key,
        seq=take_turn_number(work.connection, key),
        base_seq=call.plan.up_to.seq,
        request={name: value for name, value in call.plan.request.items() if name != "messages"},
        purpose=_PURPOSE,
        estimated_tokens=call.plan.estimated_tokens,
        started_at=call.started_at,
    )


def _store_title(
    work: UnitOfWork, key: ConversationKey, call: _Call, completion: Completion, title: str
) -> Conversation | TurnFailed:
    """Store a title and the turn that wrote it, and return the conversation. It may be run again.

    A title that somebody gave the conversation meanwhile stays. Return an error if a message that the model read was
    redacted meanwhile: the title may have the text.
    """
    recent = list_turns(work.connection, key, _RECENT_TURNS)
    if not any((turn.purpose, turn.started_at) == (_PURPOSE, call.started_at) for turn in recent):
        turn = _make_turn(work, key, call)  # from now on, a redaction waits
        if was_redacted(work.connection, read_state(work.connection, key).lineage, call.plan.up_to):
            return _store_failed_turn(work, turn, call, REDACTED_MEANWHILE, make_facts(completion))
        outcome = TurnOutcome(TurnStatus.COMPLETED, completion, moves_head=False, latency=call.latency)
        insert_ended_turn(work, turn, outcome)
    conversation = get_conversation(work.connection, key)
    if conversation.given_title not in (call.plan.title, title):
        return conversation
    return change_conversation(work.connection, key, ConversationChange(title=title), work.now)


def _store_failure(work: UnitOfWork, key: ConversationKey, call: _Call, error: dict[str, Any]) -> TurnFailed:
    turn = _make_turn(work, key, call)  # from now on, a redaction waits
    if was_redacted(work.connection, read_state(work.connection, key).lineage, call.plan.up_to):
        error = REDACTED_MEANWHILE  # the provider may quote the text
    return _store_failed_turn(work, turn, call, error, None)


def _store_failed_turn(
    work: UnitOfWork, turn: EndedTurn, call: _Call, error: dict[str, Any], completion: Completion | None
) -> TurnFailed:
    key = turn.key
    outcome = TurnOutcome(TurnStatus.FAILED, completion, moves_head=False, error=error, latency=call.latency)
    insert_ended_turn(work, turn, outcome)
    stored = find_turn(work.connection, key, turn.seq)
    assert stored is not None  # noqa: S101 (for the type checker: it was just inserted)
    return TurnFailed(
        f"conversation {key.id!r}, turn {turn.seq}: no title was written ({format_failure(error)}); the old one stays",
        stored,
    )
