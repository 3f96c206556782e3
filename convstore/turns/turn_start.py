"""The beginning of a turn, in one transaction: claim the conversation, choose the window, store input and turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from convstore.context.history_reader import PathEnd, read_past, read_token_scale
from convstore.context.window import NewInput, Past, TokenScale, Window, choose_window
from convstore.db.conversation_rows import get_conversation
from convstore.db.head_rows import check_expected_head, read_state
from convstore.db.idempotency_keys import find_turn_by_key
from convstore.db.lease_rows import Claim, Lease, take_numbers
from convstore.db.message_writes import Place, insert_messages
from convstore.db.turn_writes import insert_running_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput, NotConfigured
from convstore.leases.claims import claim_conversation
from convstore.messages.first_title import find_title
from convstore.messages.token_counters import TokenCounter, make_caching_counter
from convstore.messages.tool_calls import has_sendable_calls
from convstore.turns.retry_and_edit import PlacedRequest, find_edit_target, place_request
from convstore.turns.turn_request import RequestKind, TurnRequest
from convstore.values.completion_parameters import check_parameters, merge_parameters
from convstore.values.identifiers import ConversationKey
from convstore.values.results import MessageRecord, Request, Turn, TurnStatus
from convstore.values.turn_outcome import RunningTurn
from convstore.values.window_options import WindowOptions, merge_window_options


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """A stored turn."""

    turn: RunningTurn


@dataclass(frozen=True, slots=True)
class StartedTurn(BegunTurn):
    """A stored turn, and the request that it is about to make."""

    body: dict[str, Any]
    """The body of the call."""
    call_options: dict[str, Any]
    window: Window


def start_turn(work: UnitOfWork, key: ConversationKey, request: TurnRequest, lease: Lease) -> StartedTurn | Turn:
    """Claim the conversation and store the request.

    Returns:
        The started turn; or, for an idempotency key that was used successfully, the completed turn.

    Raises:
        ConversationNotFound, ConversationBusy: the conversation cannot be claimed.
        HeadMoved: it is not as the caller saw it.
        IdempotencyMismatch: the key was used with other input.
        NotConfigured: no model is named anywhere.
        InvalidInput: the sticky parameters break a rule together with the explicit ones; there is nothing to ask again
            or to go on from; what must be sent does not fit.
    """
    terms = request.terms
    if terms.idempotency_key is not None and request.input_digest is not None:
        done = find_turn_by_key(work.connection, key, terms.idempotency_key, request.input_digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return done
    request = find_edit_target(work, key, request)
    work = replace(work, count_tokens=make_caching_counter(work.count_tokens))  # once for the window, and for the row
    claim = claim_conversation(work, key, lease, len(request.messages), made_title=find_title(request.messages))
    check_expected_head(key, claim.head_seq, terms.expected_head)
    placed = place_request(work.connection, claim, request)
    parameters = _make_parameters(claim.settings, placed.request)
    position = claim.length if placed.after == claim.head_seq else None
    end = PathEnd(claim.lineage, placed.after, claim.pins, claim.summary_turn, position)
    window = _choose_window(work, end, claim.window, parameters, placed.request)
    records = placed.records or _insert_input(work, claim, placed, window.past.head, len(request.messages))
    turn = RunningTurn(
        key=key,
        seq=claim.turn,
        token=lease.token,
        base_seq=claim.head_seq if records else placed.after,
        first_input_seq=records[0].seq if records else None,
        last_input=records[-1] if records else window.past.head,
        request=parameters,
        window=window.report,
        estimated_tokens=window.tokens,
        started_at=work.now,
        idempotency_key=terms.idempotency_key,
        input_digest=request.input_digest,
    )
    insert_running_turn(work.connection, turn)
    return StartedTurn(turn, _make_body(parameters, window), placed.request.call_options, window)


def _insert_input(
    work: UnitOfWork, claim: Claim, placed: PlacedRequest, after: MessageRecord | None, claimed: int
) -> list[MessageRecord]:
    new, key = placed.request.messages, claim.lineage.key
    if not new:
        return []
    # A retry that copies messages, or an edit of a system message, has more of them than were claimed.
    first_seq = claim.first_seq if len(new) == claimed else take_numbers(work.connection, key, len(new))
    return insert_messages(work, key, new, Place(first_seq, after, claim.turn))


def preview_turn(work: UnitOfWork, key: ConversationKey, request: TurnRequest) -> Request:
    """Return exactly the request that `start_turn` would make. Stores nothing.

    Raises:
        As `start_turn`, except ConversationBusy.
    """
    conversation = get_conversation(work.connection, key)
    state = read_state(work.connection, key)
    check_expected_head(key, state.head.seq, request.terms.expected_head)
    parameters = _make_parameters(conversation.settings, request)
    end = PathEnd(state.lineage, state.head.seq, state.pins, state.summary_turn, state.head.position)
    window = _choose_window(work, end, conversation.window, parameters, request)
    return Request(_make_body(parameters, window), window.report)


def preview_first_turn(request: TurnRequest, count_tokens: TokenCounter) -> Request:
    """Return exactly the request that a new conversation without settings would begin with."""
    parameters = _make_parameters({}, request)
    options = WindowOptions.from_dict(merge_window_options({}, request.window))
    window = choose_window(Past(), NewInput(request.messages, parameters), options, TokenScale(count_tokens))
    return Request(_make_body(parameters, window), window.report)


def _make_parameters(settings: Mapping[str, Any], request: TurnRequest) -> dict[str, Any]:
    parameters = check_parameters(merge_parameters(settings, request.parameters))
    if "model" not in parameters:
        if not request.terms.default_model:
            raise NotConfigured(
                "no model is named: name one for this call (model=…), for the conversation (`set`), for the store "
                "(Store(model=…)), or for all (CONVSTORE_MODEL)",
                missing="model",
            )
        parameters = {"model": request.terms.default_model, **parameters}
    if request.terms.stream:
        # A streamed reply does not report its tokens unless it is asked to.
        parameters["stream"] = True
        parameters["stream_options"] = {"include_usage": True, **(parameters.get("stream_options") or {})}
    else:
        parameters.pop("stream_options", None)  # the API refuses it without `stream`
    return parameters


def _choose_window(
    work: UnitOfWork,
    end: PathEnd,
    sticky: Mapping[str, Any],
    parameters: Mapping[str, Any],
    request: TurnRequest,
) -> Window:
    """Read what a window may need, and choose it."""
    options = WindowOptions.from_dict(merge_window_options(sticky, request.window))
    completes = request.kind is RequestKind.COMPLETE
    if completes:
        options = replace(options, history=True)
    new = request.messages
    # Results that come with the request belong to the tool calls before it.
    continues = completes or (bool(new) and new[0]["role"] == "tool")
    scale = read_token_scale(work, end.lineage, options, parameters)
    past = read_past(work.connection, end, options, scale, continues=continues)
    if completes:
        _check_unanswered(end.lineage.key, past.head)
    return choose_window(past, NewInput(new, parameters, continues), options, scale)


def _check_unanswered(key: ConversationKey, head: MessageRecord | None) -> None:
    if head is None or (head.message["role"] == "assistant" and not has_sendable_calls(head.message)):
        what = "has no messages" if head is None else "ends with the model's own message"
        raise InvalidInput(
            f"conversation {key.id!r} {what}: there is nothing to go on from; `say` something, or `retry` for another "
            f"reply"
        )


def _make_body(parameters: Mapping[str, Any], window: Window) -> dict[str, Any]:
    return {"model": parameters["model"], "messages": window.messages, **parameters}
