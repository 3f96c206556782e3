"""A compaction under way: summary after summary, until the older part of a conversation is all summarised.

What is shared by `Store` and `AsyncStore`, which only call the model in their own way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from sqlalchemy import Connection

from convstore.messages.codec import text_of
from convstore.messages.completion import Completion, NotACompletion, read_completion
from convstore.provider import openai_client
from convstore.turns import compaction_plan
from convstore.turns.compaction_plan import MOST_TOKENS, Step
from convstore.turns.runtime import Runtime
from convstore.turns.turn_outcome import NO_REASON
from convstore.values.completion_parameters import check_parameters
from convstore.values.results import Summary


class Compaction:
    """What is left to summarise, and the summaries so far.

    Args:
        keep_last: how many turns are kept out of the summary; None: as the conversation says, else 2.
        parameters: completion parameters for the call; `model` else is the conversation's.
        least_tokens: summarise only where at least so many counted tokens are saved by it.
    """

    def __init__(
        self,
        runtime: Runtime,
        owner: str,
        conversation_id: str,
        *,
        keep_last: int | None,
        parameters: Mapping[str, Any],
        default_model: str | None,
        least_tokens: int = 0,
    ) -> None:
        self.summaries: list[Summary] = []
        self._runtime = runtime
        self._where = (owner, conversation_id)
        self._keep_last = keep_last
        self._parameters = check_parameters(parameters)
        self._default_model = default_model
        self._least_tokens = least_tokens
        self._most_tokens = MOST_TOKENS
        self._too_long: int | None = None
        self._retries = 0
        self._own: Summary | None = None
        self._up_to: int | None = None
        self._began = (datetime.now(UTC), time.monotonic())

    def next(self) -> Step | None:
        """Return the next summary to ask for, or None: all is done.

        Raises:
            ConversationNotFound: there is no such conversation.
            NotConfigured: no model is named anywhere.
        """
        if not self.summaries:
            self._runtime.prices()  # wrong ones are found before anything is paid for
        step = self._runtime.read(
            compaction_plan.plan,
            *self._where,
            keep_last=self._keep_last,
            parameters=self._parameters,
            default_model=self._default_model,
            count=self._runtime.count,
            most_tokens=self._most_tokens,
            up_to=self._up_to,
        )
        if self._up_to is None and step is not None:
            self._up_to = step.last  # what others say meanwhile is left to the next compaction: else this may never end
        self._began = (datetime.now(UTC), time.monotonic())
        return step if step is not None and step.tokens >= self._least_tokens else None

    def take(self, step: Step, answer: object, client: Any) -> float:
        """Take what came of the call: a completion, or an exception.

        Returns:
            The seconds to wait before the next call.

        Raises:
            TurnFailed: there is no summary, and there will be none.
        """
        if not isinstance(answer, Exception):
            try:
                return self._keep(step, _summarised(answer))
            except NotACompletion as error:
                answer = error
        share = openai_client.overflow(answer)
        less = compaction_plan.smaller(step, share) if share is not None else None
        if less is not None and step.up_to.seq != self._too_long:  # else it is one turn, and there is no less of it
            self._most_tokens, self._too_long = less, step.up_to.seq
            return 0.0
        pause = (
            openai_client.wait_before_retry(answer, self._retries) if self._retries < self._runtime.retries else None
        )
        if pause is not None:
            self._retries += 1
            return pause
        began, clock = self._began
        raise self._runtime.write(
            compaction_plan.record_failure,
            *self._where,
            step,
            openai_client.describe(answer, client),
            began,
            time.monotonic() - clock,
        ) from answer

    def _keep(self, step: Step, completion: Completion) -> float:
        began, clock = self._began
        cost = self._runtime.prices().cost(completion.usage, completion.model, step.request["model"], began)
        latency = time.monotonic() - clock
        tries = count()

        def keep(connection: Connection) -> tuple[Summary, bool]:
            # What was paid for is not given up where the connection breaks, nor put on record twice.
            done = compaction_plan.recorded(connection, *self._where, step, began) if next(tries) else None
            return done or compaction_plan.record(
                connection, *self._where, step, completion, self._own, began, latency, cost, self._runtime.count
            )

        summary, is_own = self._runtime.write_repeatable(keep)
        self._own = summary if is_own else None
        self.summaries.append(summary)
        self._retries = 0
        return 0.0


def _summarised(answer: object) -> Completion:
    completion = read_completion(answer)
    if completion.finish_reason is None:
        raise NotACompletion(NO_REASON)
    if not text_of(completion.messages[0]).strip():
        raise NotACompletion("the summary is empty")
    return completion
