"""Compaction: the model summarises the older part of a path, and the summary stands in for it in the window.

No conversation is held while the model writes. Messages never change, so a summary of a path up to one of them stays
true whatever is said, undone or forked meanwhile; it stands in wherever that message is on the path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from convstore.context import history_reader
from convstore.context.window import Policy, merge_options, policy, summary_messages, turn_beginnings
from convstore.db import conversation_rows, head_rows, history_rows, summary_rows, turn_rows, turn_writes
from convstore.db.fork_sharing import Lineage
from convstore.db.history_rows import Reach
from convstore.db.turn_writes import Ending
from convstore.errors import NotConfigured, TurnFailed
from convstore.messages.codec import Message, text_of
from convstore.messages.completion import Completion
from convstore.messages.token_estimate import Counter, unfailing
from convstore.messages.tool_calls import unanswered
from convstore.turns.turn_request import split
from convstore.values.results import MessageRecord, Summary, TurnStatus

# Short, because small models follow no long one: tried with one of 135 million parameters.
INSTRUCTION = (
    "You summarise a conversation between a user and an assistant: all names, numbers, facts, decisions and open "
    "questions, briefly, in its language."
)
MOST_MESSAGES, MOST_TOKENS = 256, 24_000
"""What one summary is asked for at most: the rest of a long past is summarised on top of it, step by step."""
_LONGEST = timedelta(minutes=5)  # for which a process that died keeps others from compacting by themselves
_LEAST_TOKENS = 64  # below, trying with less is of no use
_LATEST = 8  # turns among which one is looked for that was just put on record


@dataclass(frozen=True, slots=True)
class Step:
    """A summary that is to be written."""

    request: dict[str, Any]
    up_to: MessageRecord
    tokens: int
    """The counted tokens of the messages that it is of."""
    estimated_tokens: int
    """Those of the request."""
    last: int
    """The position up to which there is something to summarise, by this step and those after it."""


def plan(
    connection: Connection,
    owner: str,
    id: str,
    *,
    keep_last: int | None,
    parameters: Mapping[str, Any],
    default_model: str | None,
    count: Counter,
    most_tokens: int = MOST_TOKENS,
    up_to: int | None = None,
) -> Step | None:
    """Return the next summary to ask for: of what comes before the last `keep_last` turns; None: there is none.

    Args:
        up_to: the position up to which messages are summarised at most; None: any.

    Raises:
        ConversationNotFound: there is none with this id.
        NotConfigured: no model is named anywhere.
    """
    conversation = conversation_rows.get(connection, owner, id)
    state = head_rows.state(connection, owner, id)
    given = split({"keep_last": keep_last} if keep_last is not None else {})[0]
    chosen = policy(merge_options(conversation.window, given))
    standing = history_reader.Standing(state.lineage, state.head, (), state.summary_turn)
    summary = history_reader.on_path(connection, standing)[1]
    done = summary.up_to_position if summary is not None else 0
    last = _last_position(connection, state.lineage, state.head, chosen)
    last = last if up_to is None else min(last, up_to)
    records = _older(connection, state.lineage, state.head, done, last, count, most_tokens)
    spoken = [record for record in records if record.message["role"] not in ("system", "developer")]
    if not spoken:
        return None
    messages = _request_messages(spoken, summary)
    model = parameters.get("model") or conversation.settings.get("model") or default_model
    if not model:
        raise NotConfigured("no model is named to write the summary: name one (-m MODEL, model=…, CONVSTORE_MODEL)")
    return Step(
        request={**parameters, "model": model, "messages": messages},
        up_to=records[-1],
        tokens=sum(_tokens(record, count) for record in spoken),
        estimated_tokens=sum(count(message) for message in messages),
        last=last,
    )


def _last_position(connection: Connection, lineage: Lineage, head: int, chosen: Policy) -> int:
    """Return the position of the last message that a summary may be of: before the turns that are kept."""
    records = history_rows.suffix(connection, lineage, head, Reach(turns=max(1, chosen.keep_last)))
    if not records:
        return 0
    beginnings = turn_beginnings(records, from_the_first=records[0].parent_seq == 0)
    is_over = records[-1].message["role"] == "assistant" and not unanswered([record.message for record in records])
    if chosen.keep_last == 0 and is_over:
        return records[-1].position
    if len(beginnings) < max(1, chosen.keep_last):
        return 0
    return records[beginnings[-max(1, chosen.keep_last)]].position - 1


def _older(
    connection: Connection, lineage: Lineage, head: int, done: int, last: int, count: Counter, most_tokens: int
) -> list[MessageRecord]:
    """Return whole turns after position `done` and up to `last`, no more than one summary is asked for."""
    most = MOST_MESSAGES
    while done < last:
        end = min(last, done + most)
        seq = history_rows.ancestors(connection, lineage, head, [end])[end]
        records = history_rows.suffix(connection, lineage, seq, Reach(after_position=done))
        cuts = turn_beginnings(records, from_the_first=False)
        cuts = [*cuts, len(records)] if end == last else cuts
        total, place, fitting = 0, 0, 0
        for cut in cuts:
            total += sum(_tokens(record, count) for record in records[place:cut])
            place = cut
            if total <= most_tokens or not fitting:
                fitting = cut
        if fitting:
            return records[:fitting]
        most *= 4  # one turn of so many messages
    return []


def _tokens(record: MessageRecord, count: Counter) -> int:
    return record.tokens if record.tokens is not None else count(record.message)


def _request_messages(records: Sequence[MessageRecord], summary: Summary | None) -> list[Message]:
    before = f"<summary>\n{summary.text}\n</summary>\n\n" if summary is not None else ""
    both = "the summary and the conversation after it" if summary is not None else "this conversation"
    # The wish comes last: a model that has just read a long conversation else goes on with it.
    text = f"{before}<conversation>\n{transcript(records)}\n</conversation>\n\nSummarise {both}."
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]


def transcript(records: Sequence[MessageRecord]) -> str:
    """Return messages as text for a model to read: who said what; tools, images and files named in brackets."""
    return "\n\n".join(f"{record.message['role']}: {_spoken(record.message)}" for record in records)


def _spoken(message: Message) -> str:
    said = [text_of(message)]
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            said.append(f"[{kind}]")
    for call in message.get("tool_calls") or ():
        said.append(f"[calls {json.dumps(call.get('function', call), ensure_ascii=False)}]" if call else "")
    return "\n".join(line for line in said if line) or "[nothing]"


def smaller(step: Step, share: float) -> int | None:
    """Return how many tokens of messages to ask for after a request that was too long; None: it was small enough."""
    most = int(step.tokens * share)
    return most if most >= _LEAST_TOKENS else None


def record(
    connection: Connection,
    owner: str,
    id: str,
    step: Step,
    completion: Completion,
    own: Summary | None,
    started_at: datetime,
    latency: float,
    cost: float | None,
    count: Counter,
) -> tuple[Summary, bool]:
    """Put a summary that the model wrote on record, with its turn.

    Args:
        own: the one that the same compaction wrote before it: they are dropped together.

    Returns:
        The summary that stands in from now on, and whether it is this one.
    """
    now = datetime.now(UTC)
    turn = conversation_rows.take_turn(connection, owner, id)
    ending = Ending(TurnStatus.COMPLETED, completion, moves_head=False, latency=latency, cost=cost)
    turn_writes.insert_summary(
        connection, owner, id, turn, step.up_to.seq, step.request, step.estimated_tokens, ending, started_at, now
    )
    state = head_rows.state(connection, owner, id)
    standing = history_reader.Standing(state.lineage, state.head, (), state.summary_turn)
    present = history_reader.on_path(connection, standing)[1]
    if present is not None and present.up_to_position >= step.up_to.position and _is_on_path(connection, state, step):
        return present, False  # somebody else was quicker; what this one cost is on record
    text = text_of(completion.messages[0])
    summary = Summary(
        turn=turn,
        up_to_seq=step.up_to.seq,
        up_to_position=step.up_to.position,
        text=text,
        tokens=sum(map(unfailing(count), summary_messages(text))),
        # Whichever it is: one of another path, too, that the head may return to.
        previous_turn=own.previous_turn if own is not None and own.turn == state.summary_turn else state.summary_turn,
        created_at=now,
    )
    summary_rows.add(connection, owner, id, summary)
    return summary, True


def _is_on_path(connection: Connection, state: head_rows.State, step: Step) -> bool:
    """Whether a step is of the present path: the head may have moved to another while the model wrote."""
    position = step.up_to.position
    return history_rows.ancestors(connection, state.lineage, state.head, [position]).get(position) == step.up_to.seq


def recorded(
    connection: Connection, owner: str, id: str, step: Step, started_at: datetime
) -> tuple[Summary, bool] | None:
    """Return what `record` returned for a step, if it is on record already: its commit went through, unseen."""
    state = head_rows.state(connection, owner, id)
    for turn in reversed(turn_rows.latest(connection, owner, id, _LATEST)):
        if (turn.purpose, turn.base_seq, turn.started_at) == ("summary", step.up_to.seq, started_at):
            written = summary_rows.latest(connection, state.lineage, turn.seq)
            standing = history_reader.Standing(state.lineage, state.head, (), state.summary_turn)
            present = written[0] if written else history_reader.on_path(connection, standing)[1]
            return (present, bool(written)) if present is not None else None
    return None


def record_failure(
    connection: Connection,
    owner: str,
    id: str,
    step: Step,
    error: dict[str, Any],
    started_at: datetime,
    latency: float,
) -> TurnFailed:
    """Put a summary that failed on record, and return the error that says so."""
    turn = conversation_rows.take_turn(connection, owner, id)
    ending = Ending(TurnStatus.FAILED, None, moves_head=False, error=error, latency=latency)
    now = datetime.now(UTC)
    turn_writes.insert_summary(
        connection, owner, id, turn, step.up_to.seq, step.request, step.estimated_tokens, ending, started_at, now
    )
    found = turn_rows.get(connection, owner, id, turn)
    assert found is not None  # noqa: S101 (for the type checker: it was just inserted)
    problem = f"{error.get('type', 'error')}: {error.get('message', '')}"
    return TurnFailed(f"conversation {id}, turn {turn}: no summary ({problem}); nothing is changed", found)


def claim(connection: Connection, owner: str, id: str) -> bool:
    """Return whether the caller is to compact a conversation by itself; not while another process does."""
    now = datetime.now(UTC)
    return summary_rows.claim(connection, owner, id, now, now + _LONGEST)


def release(connection: Connection, owner: str, id: str) -> None:
    """Let others compact it by themselves again."""
    summary_rows.release(connection, owner, id)
