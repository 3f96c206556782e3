"""Wrap token counters: check results, use the estimate after a failure, cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from convstore.errors import InvalidInput
from convstore.messages.message import Message
from convstore.messages.token_estimate import estimate_message

TokenCounter: TypeAlias = Callable[[Message], int]
"""A function that counts the tokens of a message in its exact form, of any role and content.

A result of 0 is used as 1.
"""

_MAX_COUNTED_TOKENS = 2**53 - 1  # the largest whole number that every JSON parser reads exactly


def make_checked_counter(count: TokenCounter) -> TokenCounter:
    """Return a counter that checks each result of the caller's counter.

    The returned counter raises:
        InvalidInput: the caller's counter raised an exception, or its result is not a count.
    """
    if count is estimate_message:
        return count

    def count_and_check(message: Message) -> int:
        try:
            tokens = count(message)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
            raise InvalidInput(f"count_tokens {problem:.200} (for a message of role {message['role']!r})") from error
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= _MAX_COUNTED_TOKENS:
            raise InvalidInput(f"count_tokens must return a whole number of tokens, at least 0, not {tokens!r:.80}")
        return max(1, tokens)  # if messages had 0 tokens, no limit would end the reading of a path

    return count_and_check


def make_fallback_counter(count: TokenCounter) -> TokenCounter:
    """Return a counter that uses the estimate if the checked counter fails.

    It is for replies, because a failing counter must not lose a reply that was paid for.
    """

    def count_or_estimate(message: Message) -> int:
        try:
            return count(message)
        except InvalidInput:
            return estimate_message(message)

    return count_or_estimate


def make_caching_counter(count: TokenCounter) -> TokenCounter:
    """Return a counter that counts each message once.

    A turn needs the counts of its new messages twice: for its window and for their rows.
    """
    # The message is kept with its count, because another message could otherwise get the same id() later.
    known: dict[int, tuple[Message, int]] = {}

    def count_once(message: Message) -> int:
        found = known.get(id(message))
        if found is None:
            found = known[id(message)] = message, count(message)
        return found[1]

    return count_once
