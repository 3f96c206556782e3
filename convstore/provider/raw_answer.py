"""Call a model with a client that convstore made, and read the bytes of the answer within limits.

The openai package parses an answer before its caller sees it, and loses all of it at a value that it cannot parse. So
convstore asks its own clients for the response without parsing. A caller's own client is called as its caller would:
what wraps its methods (a tracer, a test's double) goes on working.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from convstore.provider.event_stream import EventDecoder, parse_event
from convstore.provider.stop_signal import StopSignal
from convstore.provider.stoppable_calls import (
    MAX_SILENT_SECONDS,
    SilentServer,
    await_stoppable,
    find_patience,
    stoppable,
)

MAX_REPLY_BYTES = 64 * 2**20
"""The largest answer that is read, after decompression; a compressed one of 95 KB may have 500 MB."""

C = TypeVar("C")

_made: WeakKeyDictionary[Any, tuple[ref[Any], str]] = WeakKeyDictionary()
"""Clients that convstore made, each with its HTTP client, and where its base URL comes from.

Only the client itself keeps its HTTP client alive: else a collection of garbage would free it one round later.
"""


class ReplyTooLarge(Exception):
    """The provider's answer has more bytes than the store reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the reply has more than {limit:,} bytes (`max_reply_bytes`)")


@dataclass(eq=False, slots=True)
class RawAnswer:
    """The response to a call, its body not read yet."""

    response: Any
    """An HTTP response of the library that the openai package uses, sync or async."""
    is_async: bool
    stop: StopSignal | None = None
    """Stops a wait for more of the answer."""
    max_bytes: int = MAX_REPLY_BYTES
    _read_bytes: int = field(default=0, init=False)
    _iterator: Any = field(default=None, init=False)

    def iterate(self) -> Any:
        """Return the one iterator, sync or async, over the chunks of a stream of events, and DONE."""
        if self._iterator is None:
            self._iterator = self._iterate_async() if self.is_async else self._iterate()
        return self._iterator

    def close(self) -> None:
        """Close the connection, so that the provider stops generating."""
        self.response.close()

    async def close_async(self) -> None:
        """Do what `close` does, for an async response."""
        await self.response.aclose()
        if self._iterator is not None:
            await self._iterator.aclose()

    def _iterate(self) -> Iterator[Any]:
        chunks = _ChunkReader(self)
        for received in self._receive():
            yield from chunks.read(received)

    async def _iterate_async(self) -> AsyncIterator[Any]:
        chunks = _ChunkReader(self)
        async for received in self._receive_async():
            for chunk in chunks.read(received):
                yield chunk

    def _receive(self) -> Iterator[bytes]:
        pieces = iter(self.response.iter_bytes())
        while True:
            with stoppable(self.stop):
                received = next(pieces, None)
            if received is None:
                return
            yield received

    async def _receive_async(self) -> AsyncIterator[bytes]:
        pieces = aiter(self.response.aiter_bytes())
        while (received := await await_stoppable(anext(pieces, None), self.stop)) is not None:
            yield received

    def read_body(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.count(received) for received in self._receive())

    async def read_body_async(self) -> bytes:
        """Return the whole body of an async response."""
        return b"".join([self.count(received) async for received in self._receive_async()])

    def count(self, received: bytes) -> bytes:
        """Return the bytes.

        Raises:
            ReplyTooLarge: the answer has too many of them.
        """
        self._read_bytes += len(received)
        if self._read_bytes > self.max_bytes:
            raise ReplyTooLarge(self.max_bytes)
        return received


class _ChunkReader:
    def __init__(self, answer: RawAnswer) -> None:
        self._answer = answer
        self._decoder = EventDecoder()
        extensions = getattr(getattr(answer.response, "request", None), "extensions", {})
        seconds = extensions.get("timeout", {}).get("read", MAX_SILENT_SECONDS)
        self._patience = math.inf if seconds is None else seconds
        self._heard_at = time.monotonic()

    def read(self, received: bytes) -> Iterator[Any]:
        events = self._decoder.decode(self._answer.count(received))
        if not events and time.monotonic() - self._heard_at > self._patience:
            raise SilentServer(self._patience)
        for data in events:
            yield parse_event(data)
        if events:
            self._heard_at = time.monotonic()  # after the reader's pauses, which are not the server's silence


def register_made_client(client: C, http_client: Any, url_source: str = "") -> C:
    """Return a client that convstore made; its answers are read by convstore.

    Args:
        http_client: what it sends its requests with.
        url_source: where its base URL comes from, in words; "": nobody named it.
    """
    _made[client] = (ref(http_client), url_source)
    return client


def get_http_client(client: Any) -> Any:
    """Return the HTTP client of a client that convstore made."""
    return _made[client][0]()


def is_made_client(client: Any) -> bool:
    """Return True if convstore made the client."""
    try:
        return client in _made
    except TypeError:  # a caller's own client without a hash
        return False


def find_url_source(client: Any) -> str:
    """Return where the base URL of a client comes from, in words; "" if nobody named it."""
    return _made[client][1] if is_made_client(client) else "of your client"


def call_model(client: Any, arguments: dict[str, Any], stop: StopSignal | None = None) -> Any:
    """Return the answer of `chat.completions.create`: a `RawAnswer` from a client that convstore made.

    Args:
        stop: ends the call while it waits for its server, and what is read of the answer later.
    """
    if not is_made_client(client):
        return client.chat.completions.create(**arguments)
    with stoppable(stop, find_patience(client, arguments)):
        answer = client.chat.completions.with_streaming_response.create(**arguments).__enter__()
    return RawAnswer(answer.http_response, is_async=False, stop=stop)


async def call_model_async(client: Any, arguments: dict[str, Any], stop: StopSignal | None = None) -> Any:
    """Do what `call_model` does, with an async client."""
    if not is_made_client(client):
        return await await_stoppable(client.chat.completions.create(**arguments), stop)
    call = client.chat.completions.with_streaming_response.create(**arguments).__aenter__()
    answer = await await_stoppable(call, stop, find_patience(client, arguments))
    return RawAnswer(answer.http_response, is_async=True, stop=stop)
