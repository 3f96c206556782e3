"""The call of a turn: made, and made again only where nothing can have been generated."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from convstore import provider
from convstore.runtime import Live


def call(client: Any, live: Live, retries: int) -> Any:
    """Return what `chat.completions.create` gives for a turn's request: a completion, or a stream of chunks.

    Raises:
        Exception: whatever the last call raised.
    """
    arguments = provider.call_arguments(client, live.begun.request, live.begun.options)
    while True:
        try:
            return client.chat.completions.create(**arguments)
        except Exception as error:
            time.sleep(_pause(error, client, live, retries))


async def acall(client: Any, live: Live, retries: int) -> Any:
    """As `call`, with an async client."""
    arguments = provider.call_arguments(client, live.begun.request, live.begun.options)
    while True:
        try:
            return await client.chat.completions.create(**arguments)
        except Exception as error:
            await asyncio.sleep(_pause(error, client, live, retries))


def _pause(error: Exception, client: Any, live: Live, retries: int) -> float:
    """Return the seconds to wait before the next call, and put it on the turn's record; or raise the error."""
    made = live.answer.attempts
    seconds = provider.wait_before_retry(error, made) if made < retries else None
    if seconds is None:
        raise error
    live.answer.again(provider.describe(error, client), seconds)
    return seconds
