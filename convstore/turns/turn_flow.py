"""The flow of a turn, written once: begin, call, repeat the call, stream, end, compact if due.

It says as well what Ctrl-C, cancelling and failure do at each point. A flow yields the steps that have to be done next;
`sync_runner` and `async_runner` perform them.

begin   `TurnEngine.begin` claims the conversation, and stores the input and the turn, in one transaction.
call    nothing of the database is held. A `CallRecorder` keeps the clock, and what has come so far.
end     `TurnEngine.end` stores the outcome in one transaction; `check_ended_well` returns the turn, or raises what its
        end means to the caller.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from convstore.errors import ConversationBusy
from convstore.leases.waiting import repeat_while_busy
from convstore.messages.completion import read_completion
from convstore.messages.message import extract_text
from convstore.messages.refused_message import find_refused_message
from convstore.provider.context_overflow import find_fitting_share
from convstore.provider.error_texts import describe_error
from convstore.provider.event_stream import DONE
from convstore.provider.openai_client import build_call_arguments
from convstore.provider.raw_answer import RawAnswer
from convstore.provider.response_kind import check_event_stream, is_json_response, iterate_chunks, parse_json_body
from convstore.provider.retry_policy import compute_retry_delay
from convstore.provider.stoppable_calls import CallStopped
from convstore.turns.compaction import compact_if_due
from convstore.turns.model_answer import read_whole_answer
from convstore.turns.retry_and_edit import find_edit_target
from convstore.turns.turn_end import check_ended_well
from convstore.turns.turn_engine import LiveTurn, TurnEngine
from convstore.turns.turn_request import RequestKind, TurnRequest
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Turn
from convstore.values.steps import (
    END_OF_STREAM,
    CallModel,
    DatabaseWork,
    GetClient,
    HangUp,
    NextChunk,
    Piece,
    ReadBody,
    Steps,
    WaitForSignal,
)
from convstore.values.turn_outcome import TurnOutcome

_logger = logging.getLogger(__name__)

_REFUSED_STATUSES = frozenset({400, 422})


class ReplyClosed(BaseException):
    """Thrown into the flow of a stream when its reader closes the reply."""


@dataclass(slots=True, eq=False)
class ReplyState:
    """What a reader sees of a reply while it streams in."""

    has_begun: bool = False
    live: LiveTurn | None = None
    """The turn, while it runs in this process."""
    turn: Turn | None = None
    """The turn, once it is over."""
    pieces: list[str] = field(default_factory=list)


def ask(engine: TurnEngine, key: ConversationKey, request: TurnRequest, seconds: float) -> Steps[Turn]:
    """Run a turn with a reply that comes whole.

    Args:
        seconds: how long to wait for a conversation that another turn holds.
    """
    client = yield GetClient()
    live = yield from _begin(engine, key, request, seconds)
    if isinstance(live, Turn):
        return live
    try:
        answer = yield from read_whole_answer((yield from _call(client, live, engine)))
        outcome = live.recorder.end_answered(read_completion(answer))
    except Exception as error:
        if live.watched.stop_requested.is_set():
            outcome = live.recorder.end_stopped()
        else:
            outcome = live.recorder.end_failed(_describe_failure(error, client, live))
        ended, is_held = yield _end(engine, live, outcome)
        return check_ended_well(ended, is_held=is_held)
    except BaseException as error:  # Ctrl-C, or the task was cancelled
        yield _end(engine, live, live.recorder.end_stopped())
        note_stopped_turn(error, live)
        raise
    ended, is_held = yield _end(engine, live, outcome)
    turn = check_ended_well(ended, is_held=is_held)
    yield from compact_if_due(engine, turn, key)
    return turn


def stream(
    engine: TurnEngine, key: ConversationKey, request: TurnRequest, seconds: float, reply: ReplyState
) -> Steps[None]:
    """Run a turn with a reply that streams in: yield its pieces, the first of them empty once the reply has begun."""
    client = yield GetClient()
    live = yield from _begin(engine, key, request, seconds)
    reply.has_begun = True
    if isinstance(live, Turn):  # an idempotency key that was used successfully: its reply comes in one piece
        reply.turn = live
        yield from _deliver(reply, live.text)
        return
    reply.live = live
    received: Any = None
    outcome: TurnOutcome | None
    try:
        received = yield from _call(client, live, engine)
        check_event_stream(received)
        if is_json_response(received):
            completion = read_completion(parse_json_body((yield ReadBody(received))))
            outcome, text = live.recorder.end_answered(completion), extract_text(completion.messages[0])
        else:
            outcome, text = (yield from _read(live, received, reply)), ""
    except GeneratorExit:  # nobody has the reply any more: the heartbeat ends the turn
        raise
    except Exception as error:
        if live.watched.stop_requested.is_set():
            yield from _finish(engine, reply, live.recorder.end_stopped(), received, was_stopped=True)
        else:
            outcome = live.recorder.end_failed(_describe_failure(error, client, live))
            yield from _finish(engine, reply, outcome, received)
        return
    except BaseException as error:  # its reader closed it, Ctrl-C, or the task was cancelled
        yield from _finish(engine, reply, live.recorder.end_stopped(), received, was_stopped=True)
        if isinstance(error, ReplyClosed):
            return
        note_stopped_turn(error, live)
        raise
    if outcome is None:  # stopped from elsewhere
        yield from _finish(engine, reply, live.recorder.end_stopped(), received, was_stopped=True)
        return
    turn = yield from _finish(engine, reply, outcome, received)
    yield from compact_if_due(engine, turn, key)
    if text:
        yield from _deliver(reply, text)


def note_stopped_turn(error: BaseException, live: LiveTurn) -> None:
    """Add a note to what stopped a turn, so that whoever catches it knows that the message is stored."""
    turn = live.started.turn
    error.add_note(f"conversation {turn.key.id!r}: turn {turn.seq} was stopped; its message is stored")


def _read(live: LiveTurn, received: Any, reply: ReplyState) -> Steps[TurnOutcome | None]:
    """Yield the pieces of a stream, and return its outcome; None if another caller asked to stop the turn."""
    yield Piece("")
    recorder, stop_requested = live.recorder, live.watched.stop_requested
    next_chunk = NextChunk(iterate_chunks(received))
    while not stop_requested.is_set():
        chunk = yield next_chunk
        if chunk is END_OF_STREAM:
            return (
                None
                if stop_requested.is_set()
                else recorder.end_exhausted(accept_done=live.started.window.options.accept_done)
            )
        if chunk is DONE:
            recorder.note_done()
            continue
        piece = recorder.add_chunk(chunk)
        if piece:
            reply.pieces.append(piece)
            yield Piece(piece)
    return None


def _deliver(reply: ReplyState, text: str) -> Steps[None]:
    """Yield the text of a reply that came whole."""
    yield Piece("")
    reply.pieces.append(text)
    yield Piece(text)


def _finish(
    engine: TurnEngine, reply: ReplyState, outcome: TurnOutcome, received: Any, *, was_stopped: bool = False
) -> Steps[Turn]:
    live = reply.live
    assert live is not None  # noqa: S101 (for the type checker: it is set when the turn has begun)
    reply.live = None
    try:
        reply.turn, is_held = yield _end(engine, live, outcome)
    finally:
        if received is not None:
            yield HangUp(received)
    return check_ended_well(reply.turn, is_held=is_held, was_stopped=was_stopped)


def _begin(engine: TurnEngine, key: ConversationKey, request: TurnRequest, seconds: float) -> Steps[LiveTurn | Turn]:
    attempt = DatabaseWork(partial(engine.begin, key, request), undo=engine.give_up)
    if request.kind is RequestKind.EDIT:
        try:
            started: LiveTurn | Turn = yield attempt
        except ConversationBusy:
            if not seconds:
                raise
        else:
            return started
        # Before waiting: the message that is at this position now must still be there afterwards.
        request = yield DatabaseWork(partial(engine.transactions.read, find_edit_target, key, request))
        attempt = DatabaseWork(partial(engine.begin, key, request), undo=engine.give_up)
    is_held = DatabaseWork(partial(engine.is_held, key))
    begun: LiveTurn | Turn = yield from repeat_while_busy(attempt, is_held, seconds, engine.name_line(key))
    return begun


def _end(engine: TurnEngine, live: LiveTurn, outcome: TurnOutcome) -> DatabaseWork:
    return DatabaseWork(partial(engine.end, live, outcome))


def _call(client: Any, live: LiveTurn, engine: TurnEngine) -> Steps[Any]:
    """Return what the model call gives; repeat the call only if nothing can have been generated.

    Raises:
        Exception: whatever the last call raised.
    """
    body, options = live.started.body, live.started.call_options
    stop = live.watched.stop_requested
    while True:
        try:
            received = yield CallModel(client, build_call_arguments(client, body, options), stop)
            if isinstance(received, RawAnswer):
                received.max_bytes = engine.max_reply_bytes
            return received
        except Exception as error:
            if stop.is_set():
                raise
            body, seconds = _decide_repetition(error, client, live, body, engine.retries)
        yield WaitForSignal(stop.given, seconds)
        if stop.is_set():
            raise CallStopped


def _describe_failure(error: Exception, client: Any, live: LiveTurn) -> dict[str, Any]:
    """Return what the turn stores about an error; if the request was refused, with the message to look at."""
    facts = describe_error(error, client)
    if facts.get("status") not in _REFUSED_STATUSES or find_fitting_share(error) is not None:
        return facts
    window = live.started.window
    suspect = find_refused_message(window.sendable, window.messages, facts["message"])
    return facts if suspect is None else {**facts, "suspect": suspect}


def _decide_repetition(
    error: Exception, client: Any, live: LiveTurn, body: dict[str, Any], retries: int
) -> tuple[dict[str, Any], float]:
    """Return the body of the next call and the seconds to wait before it, and record why; or raise the error."""
    smaller = _shrink_body(error, live, body)
    attempts = live.recorder.attempts
    seconds = 0.0 if smaller is not None else compute_retry_delay(error, attempts) if attempts < retries else None
    if seconds is None:
        raise error
    live.recorder.add_failed_attempt(describe_error(error, client), seconds)
    turn = live.started.turn
    _logger.info(
        "conversation %s, turn %d: repeating the call in %.2f s (%s)",
        turn.key.id,
        turn.seq,
        seconds,
        type(error).__name__,
    )
    return (smaller if smaller is not None else body), seconds


def _shrink_body(error: Exception, live: LiveTurn, body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the body with less of the history, if the caller wants that and it may help; once."""
    window = live.started.window
    if window.options.on_overflow != "trim" or body is not live.started.body:
        return None
    share = find_fitting_share(error)
    smaller = window.shrink(share) if share is not None else None
    if smaller is None:
        return None
    live.recorder.replace_window(smaller.report, smaller.tokens)
    return {**body, "messages": smaller.messages}
