"""Compaction: which part of a path the model summarises next, the request for it, and the summary when it came.

No conversation is held while the model writes. Messages change only if they are redacted, which is looked for when the
summary came. So a summary of a path up to one of them stays true whatever is said, undone or forked meanwhile; it is
used wherever that message is on the path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from convstore.context.history_reader import find_summary
from convstore.context.window import find_turn_beginnings, make_records_sendable, make_summary_messages
from convstore.db.ancestors import find_ancestors, is_on_path
from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import take_turn_number
from convstore.db.head_rows import ConversationState, read_state
from convstore.db.history_rows import Reach, read_path_end
from convstore.db.message_rows import was_redacted
from convstore.db.summary_rows import claim_compaction, insert_summary, read_summaries, release_compaction
from convstore.db.turn_rows import find_turn, list_turns
from convstore.db.turn_writes import insert_ended_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import NotConfigured, TurnFailed
from convstore.messages.completion import REDACTED_MEANWHILE, Completion, make_facts
from convstore.messages.message import Message, extract_text
from convstore.messages.token_counters import make_fallback_counter
from convstore.messages.tool_calls import find_unanswered_calls, list_calls
from convstore.provider.error_texts import format_failure
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import MessageRecord, Summary, TurnStatus
from convstore.values.turn_outcome import EndedTurn, TurnOutcome
from convstore.values.window_options import WindowOptions, merge_window_options

# Short, because small models follow no long one: tried with one of 135 million parameters.
INSTRUCTION = (
    "You summarise a conversation between a user and an assistant: all names, numbers, facts, decisions and open "
    "questions, briefly, in its language."
)
MAX_SUMMARISED_MESSAGES, MAX_SUMMARISED_TOKENS = 256, 24_000
"""Most that one summary covers: the rest of a long past is summarised on top of it, summary by summary."""
_CLAIM_SPAN = timedelta(minutes=5)  # for how long a process that died keeps others from compacting automatically
_MIN_TOKENS = 64  # with less, another try is of no use
_RECENT_TURNS = 8  # number of latest turns in which a turn is searched that was stored a moment ago


@dataclass(frozen=True, slots=True)
class SummaryOptions:
    """How a conversation is summarised."""

    keep_last: int | None = None
    """Turns to leave alone; None: as the conversation says, else 2."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Completion parameters of the call."""
    default_model: str | None = None
    max_tokens: int = MAX_SUMMARISED_TOKENS
    """Most counted tokens of messages that one summary covers."""
    up_to: Position | None = None
    """Last position to summarise; None: any."""


@dataclass(frozen=True, slots=True)
class SummaryStep:
    """A summary to ask for."""

    request: dict[str, Any]
    up_to: MessageRecord
    """The last message that it covers."""
    tokens: int
    """Counted tokens of the messages that it covers."""
    estimated_tokens: int
    """Counted tokens of the request."""
    last: Position
    """Last position that there is to summarise, by this step and those after it."""


@dataclass(frozen=True, slots=True)
class SummaryCall:
    """The call that a summary was asked with."""

    step: SummaryStep
    started_at: datetime
    latency: float
    """Seconds."""


def plan_summary(work: UnitOfWork, key: ConversationKey, options: SummaryOptions) -> SummaryStep | None:
    """Return the next summary to write, or None if all is done. The last `keep_last` turns are never summarised.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        NotConfigured: no model is named anywhere.
    """
    conversation = get_conversation(work.connection, key)
    state = read_state(work.connection, key)
    given = {"keep_last": options.keep_last} if options.keep_last is not None else {}
    keep_last = WindowOptions.from_dict(merge_window_options(conversation.window, given)).keep_last
    summary = find_summary(work.connection, state)
    done = summary.up_to_position if summary is not None else Position(0)
    last = _find_last_position(work, state, keep_last)
    last = last if options.up_to is None else min(last, options.up_to)
    records = _read_next_turns(work, state, done, last, options.max_tokens)
    spoken = [record for record in records if record.message["role"] not in ("system", "developer")]
    if not spoken:
        return None
    messages = _make_request_messages(spoken, summary)
    model = options.parameters.get("model") or conversation.settings.get("model") or options.default_model
    if not model:
        raise NotConfigured(
            "no model is named to write the summary: name one (model=…, or CONVSTORE_MODEL)", missing="model"
        )
    return SummaryStep(
        request={**options.parameters, "model": model, "messages": messages},
        up_to=records[-1],
        tokens=sum(_count_tokens(work, record) for record in spoken),
        estimated_tokens=sum(work.count_tokens(message) for message in messages),
        last=last,
    )


def _find_last_position(work: UnitOfWork, state: ConversationState, keep_last: int) -> Position:
    """Return the position of the last message that a summary may cover: before the turns that are left alone."""
    kept = max(1, keep_last)
    records = read_path_end(work.connection, state.lineage, state.head.seq, Reach(turns=kept))
    if not records:
        return Position(0)
    beginnings = find_turn_beginnings(records, from_the_first=records[0].parent_seq == 0)
    is_over = records[-1].message["role"] == "assistant" and not find_unanswered_calls(make_records_sendable(records))
    if keep_last == 0 and is_over:
        return records[-1].position
    if len(beginnings) < kept:
        return Position(0)
    return Position(records[beginnings[-kept]].position - 1)


def _read_next_turns(
    work: UnitOfWork, state: ConversationState, done: Position, last: Position, max_tokens: int
) -> list[MessageRecord]:
    """Return whole turns after position `done` and up to `last`, no more than one summary covers."""
    most, lineage = MAX_SUMMARISED_MESSAGES, state.lineage
    while done < last:
        end = Position(min(last, done + most))
        seq = find_ancestors(work.connection, lineage, state.head.seq, [end])[end]
        records = read_path_end(work.connection, lineage, seq, Reach(after_position=done))
        cuts = find_turn_beginnings(records, from_the_first=False)
        cuts = [*cuts, len(records)] if end == last else cuts
        total, place, fitting = 0, 0, 0
        for cut in cuts:
            total += sum(_count_tokens(work, record) for record in records[place:cut])
            place = cut
            if total <= max_tokens or not fitting:
                fitting = cut
        if fitting:
            return records[:fitting]
        most *= 4  # one turn has so many messages
    return []


def _count_tokens(work: UnitOfWork, record: MessageRecord) -> int:
    return record.tokens if record.tokens is not None else work.count_tokens(record.message)


def _make_request_messages(records: Sequence[MessageRecord], summary: Summary | None) -> list[Message]:
    before = f"<summary>\n{summary.text}\n</summary>\n\n" if summary is not None else ""
    both = "the summary and the conversation after it" if summary is not None else "this conversation"
    # The wish comes last: a model that has just read a long conversation would otherwise go on with it.
    text = f"{before}<conversation>\n{write_transcript(records)}\n</conversation>\n\nSummarise {both}."
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]


def write_transcript(records: Sequence[MessageRecord]) -> str:
    """Return messages as text for a model to read: role and text; tools, images and files named in brackets."""
    return "\n\n".join(f"{record.message['role']}: {_write_message(record.message)}" for record in records)


def _write_message(message: Message) -> str:
    said = [extract_text(message)]
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            said.append(f"[{kind}]")
    for call in list_calls(message):
        said.append(f"[calls {json.dumps(call.get('function', call), ensure_ascii=False)}]" if call else "")
    return "\n".join(line for line in said if line) or "[nothing]"


def shrink_step(step: SummaryStep, share: float) -> int | None:
    """Return the smaller token limit after a request that was too long, or None if it cannot be smaller."""
    most = int(step.tokens * share)
    return most if most >= _MIN_TOKENS else None


def store_summary(
    work: UnitOfWork, key: ConversationKey, call: SummaryCall, completion: Completion, own: Summary | None
) -> tuple[Summary, bool] | TurnFailed:
    """Store a summary that the model wrote, with its turn.

    Return an error if a message that it covers was redacted meanwhile: it may have the text. Only its turn is stored.

    Args:
        own: the summary that the same compaction wrote before; None: this is its first. `drop_summary` drops both.

    Returns:
        The summary that is sent from now on, and True if it is the new one.
    """
    connection, step = work.connection, call.step
    turn = _make_turn(work, key, call)
    state = read_state(connection, key)
    if was_redacted(connection, state.lineage, step.up_to):
        return _store_failed_turn(work, turn, call, REDACTED_MEANWHILE, make_facts(completion))
    outcome = TurnOutcome(TurnStatus.COMPLETED, completion, moves_head=False, latency=call.latency)
    insert_ended_turn(work, turn, outcome)
    present = find_summary(connection, state)
    if present is not None and present.up_to_position >= step.up_to.position and _is_on_path(work, state, step):
        return present, False  # another caller was quicker; the turn of this one records what it cost
    text = extract_text(completion.messages[0])
    summary = Summary(
        turn=turn.seq,
        up_to_seq=step.up_to.seq,
        up_to_position=step.up_to.position,
        text=text,
        tokens=count_summary_tokens(work, text),
        # The latest, even if it covers another path, to which the head may return.
        previous_turn=own.previous_turn if own is not None and own.turn == state.summary_turn else state.summary_turn,
        created_at=work.now,
    )
    insert_summary(connection, key, summary)
    return summary, True


def count_summary_tokens(work: UnitOfWork, text: str) -> int:
    """Return the tokens of a summary as it is sent."""
    count_tokens = make_fallback_counter(work.count_tokens)
    return sum(count_tokens(message) for message in make_summary_messages(text))


def _make_turn(work: UnitOfWork, key: ConversationKey, call: SummaryCall) -> EndedTurn:
    return EndedTurn(
        key=key,
        seq=take_turn_number(work.connection, key),
        base_seq=call.step.up_to.seq,
        request={name: value for name, value in call.step.request.items() if name != "messages"},
        purpose="summary",
        estimated_tokens=call.step.estimated_tokens,
        started_at=call.started_at,
    )


def _is_on_path(work: UnitOfWork, state: ConversationState, step: SummaryStep) -> bool:
    """Return True if a step covers the present path: the head may have moved to another while the model wrote."""
    return is_on_path(work.connection, state.lineage, state.head.seq, step.up_to.position, step.up_to.seq)


def find_stored_summary(work: UnitOfWork, key: ConversationKey, call: SummaryCall) -> tuple[Summary, bool] | None:
    """Return the summary that an earlier try of this call stored, or None."""
    state = read_state(work.connection, key)
    for turn in reversed(list_turns(work.connection, key, _RECENT_TURNS)):
        if (turn.purpose, turn.base_seq, turn.started_at) == ("summary", call.step.up_to.seq, call.started_at):
            written = read_summaries(work.connection, state.lineage, turn.seq)
            present = written[0] if written else find_summary(work.connection, state)
            return (present, bool(written)) if present is not None else None
    return None


def store_failed_summary(
    work: UnitOfWork, key: ConversationKey, call: SummaryCall, error: dict[str, Any]
) -> TurnFailed:
    """Store the turn of a summary that failed, and return the error that says so."""
    turn = _make_turn(work, key, call)  # from now on, a redaction waits
    if was_redacted(work.connection, read_state(work.connection, key).lineage, call.step.up_to):
        error = REDACTED_MEANWHILE  # the provider may quote the text
    return _store_failed_turn(work, turn, call, error, None)


def _store_failed_turn(
    work: UnitOfWork, turn: EndedTurn, call: SummaryCall, error: dict[str, Any], completion: Completion | None
) -> TurnFailed:
    key = turn.key
    insert_ended_turn(
        work, turn, TurnOutcome(TurnStatus.FAILED, completion, moves_head=False, error=error, latency=call.latency)
    )
    stored = find_turn(work.connection, key, turn.seq)
    assert stored is not None  # noqa: S101 (for the type checker: it was just inserted)
    return TurnFailed(
        f"conversation {key.id!r}, turn {turn.seq}: no summary was written ({format_failure(error)}); nothing has "
        f"changed",
        stored,
    )


def claim_automatic_compaction(work: UnitOfWork, key: ConversationKey) -> bool:
    """Return True if the caller may compact a conversation automatically: no other process does."""
    return claim_compaction(work.connection, key, work.now, work.now + _CLAIM_SPAN)


def release_automatic_compaction(work: UnitOfWork, key: ConversationKey) -> None:
    """Let other processes compact the conversation automatically again."""
    release_compaction(work.connection, key)
