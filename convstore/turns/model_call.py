"""The call of a turn: made, and made again only where nothing can have been generated."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from convstore.provider import openai_client
from convstore.turns.runtime import Live


def call(client: Any, live: Live, retries: int) -> Any:
    """Return what `chat.completions.create` gives for a turn's request: a completion, or a stream of chunks.

    Raises:
        Exception: whatever the last call raised.
    """
    request = live.begun.request
    while True:
        try:
            return client.chat.completions.create(**openai_client.call_arguments(client, request, live.begun.options))
        except Exception as error:
            request, pause = _again(error, client, live, request, retries)
            time.sleep(pause)


async def acall(client: Any, live: Live, retries: int) -> Any:
    """As `call`, with an async client."""
    request = live.begun.request
    while True:
        try:
            return await client.chat.completions.create(
                **openai_client.call_arguments(client, request, live.begun.options)
            )
        except Exception as error:
            request, pause = _again(error, client, live, request, retries)
            await asyncio.sleep(pause)


def _again(
    error: Exception, client: Any, live: Live, request: dict[str, Any], retries: int
) -> tuple[dict[str, Any], float]:
    """Return the request of the next call, and the seconds to wait before it; or raise the error.

    Why there is another goes on the turn's record.
    """
    trimmed = _trimmed(error, live, request)
    if trimmed is not None:
        live.answer.again(openai_client.describe(error, client), 0.0)
        return trimmed, 0.0
    made = live.answer.attempts
    seconds = openai_client.wait_before_retry(error, made) if made < retries else None
    if seconds is None:
        raise error
    live.answer.again(openai_client.describe(error, client), seconds)
    return request, seconds


def _trimmed(error: Exception, live: Live, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the request with less of the history, if that is wanted and may help; once."""
    choice = live.begun.choice
    if choice.policy.on_overflow != "trim" or request is not live.begun.request:
        return None
    share = openai_client.overflow(error)
    window = choice.narrower(share) if share is not None else None
    if window is None:
        return None
    live.answer.narrowed(window.facts, window.tokens)
    return {**request, "messages": window.messages}
