"""Compaction as a flow: summary after summary, until the older part of a conversation is all summarised."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any

from convstore.context.summary_plan import (
    SummaryCall,
    SummaryOptions,
    SummaryStep,
    claim_automatic_compaction,
    find_stored_summary,
    plan_summary,
    release_automatic_compaction,
    shrink_step,
    store_failed_summary,
    store_summary,
)
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConvstoreError, TurnFailed
from convstore.messages.completion import Completion, NotACompletion, read_completion
from convstore.messages.message import extract_text
from convstore.provider.context_overflow import find_fitting_share
from convstore.provider.error_texts import describe_error
from convstore.provider.openai_client import build_call_arguments
from convstore.provider.retry_policy import compute_retry_delay
from convstore.turns.call_recorder import NO_FINISH_REASON
from convstore.turns.model_answer import read_whole_answer
from convstore.turns.turn_engine import TurnEngine
from convstore.values.completion_parameters import check_parameters
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Summary, Turn
from convstore.values.steps import CallModel, DatabaseWork, GetClient, Pause, Steps
from convstore.values.window_options import check_window_options

_logger = logging.getLogger(__name__)

_MIN_GAIN = 0.25  # of the threshold: what an automatic compaction has to save


@dataclass(slots=True)
class _Tries:
    """What has been tried for the next summary."""

    failures: int = 0
    too_long_seq: int | None = None
    """Last message of a step that the provider found too long."""


def make_summary_options(
    parameters: Mapping[str, Any], *, keep_last: int | None, model: str | None, default_model: str | None
) -> SummaryOptions:
    """Return how a caller wants a conversation summarised.

    Raises:
        InvalidParameter: a value breaks a rule.
    """
    given = {**parameters, "model": model} if model is not None else parameters
    check_window_options({"keep_last": keep_last})
    return SummaryOptions(keep_last, check_parameters(given), default_model)


def compact(
    engine: TurnEngine, key: ConversationKey, options: SummaryOptions, min_tokens: int = 0
) -> Steps[list[Summary]]:
    """Let the model summarise the older part of a conversation, and return the summaries.

    Args:
        min_tokens: summarise only if at least so many counted tokens are covered.

    Raises:
        TurnFailed: the model or its provider failed; what was summarised before stays.
    """
    client = yield GetClient()
    transactions = engine.transactions
    yield DatabaseWork(transactions.services.get_prices)  # wrong prices are found before anything is paid for
    summaries: list[Summary] = []
    own: Summary | None = None
    tries = _Tries()
    while True:
        step = yield DatabaseWork(partial(transactions.read, plan_summary, key, options))
        if step is None or step.tokens < min_tokens:
            return summaries
        if options.up_to is None:
            # What others say meanwhile is left to the next compaction: otherwise this one may never end.
            options = replace(options, up_to=step.last)
        started_at, began = datetime.now(UTC), time.monotonic()
        try:
            received = yield CallModel(client, build_call_arguments(client, step.request, {}))
            completion = _read_summary((yield from read_whole_answer(received)))
        except Exception as error:
            smaller = _shrink(error, step, tries)
            if smaller is not None:
                options = replace(options, max_tokens=smaller)
                continue
            pause = compute_retry_delay(error, tries.failures) if tries.failures < engine.retries else None
            if pause is None:
                call = SummaryCall(step, started_at, time.monotonic() - began)
                problem = describe_error(error, client)
                raise (yield DatabaseWork(partial(transactions.write, store_failed_summary, key, call, problem))) from (
                    error
                )
            tries.failures += 1
            yield Pause(pause)
            continue
        call = SummaryCall(step, started_at, time.monotonic() - began)
        store = _StoreOnce(key, call, completion, own)
        stored = yield DatabaseWork(partial(transactions.write_repeatable, store))
        if isinstance(stored, TurnFailed):
            raise stored
        summary, is_own = stored
        own = summary if is_own else None
        summaries.append(summary)
        tries = _Tries(too_long_seq=tries.too_long_seq)


class _StoreOnce:
    """Stores a summary: what was paid for is neither given up if the connection breaks, nor stored twice."""

    def __init__(self, key: ConversationKey, call: SummaryCall, completion: Completion, own: Summary | None) -> None:
        self._arguments = key, call, completion, own
        self._tries = count()

    def __call__(self, work: UnitOfWork) -> tuple[Summary, bool] | TurnFailed:
        key, call, completion, own = self._arguments
        stored = find_stored_summary(work, key, call) if next(self._tries) else None
        return stored or store_summary(work, key, call, completion, own)


def _read_summary(answer: object) -> Completion:
    completion = read_completion(answer)
    if completion.finish_reason is None:
        raise NotACompletion(NO_FINISH_REASON)
    if not extract_text(completion.messages[0]).strip():
        raise NotACompletion("the summary is empty")
    return completion


def _shrink(error: Exception, step: SummaryStep, tries: _Tries) -> int | None:
    """Return how many tokens to cover after a request that was too long; None if that is not the problem."""
    share = find_fitting_share(error)
    smaller = shrink_step(step, share) if share is not None else None
    if smaller is None or step.up_to.seq == tries.too_long_seq:  # the same again: it is one turn, and cannot shrink
        return None
    tries.too_long_seq = step.up_to.seq
    return smaller


def compact_if_due(engine: TurnEngine, turn: Turn, key: ConversationKey) -> Steps[None]:
    """Compact a conversation automatically if its request was long enough. Failures are logged, and never raised."""
    window = turn.window
    threshold = window.options.compact_at if window is not None else None
    if window is None or threshold is None:
        return
    reported = turn.usage.prompt_tokens if turn.usage is not None else None
    if (reported if reported is not None else window.tokens or 0) < threshold:
        return
    transactions = engine.transactions
    try:
        if not (yield DatabaseWork(partial(transactions.write_repeatable, claim_automatic_compaction, key))):
            return
        try:
            options = SummaryOptions(window.options.keep_last, default_model=engine.default_model)
            yield from compact(engine, key, options, min_tokens=int(threshold * _MIN_GAIN))
        finally:
            yield DatabaseWork(partial(transactions.write_repeatable, release_automatic_compaction, key))
    except ConvstoreError as error:
        _logger.warning(
            "conversation %s: automatic compaction after turn %d failed (%s)", key.id, turn.seq, type(error).__name__
        )
