"""The body of a request that is answered before it was read: read the rest if it is small, else give up the connection.

What a client goes on to send after the answer would otherwise be taken, and thrown away, without end.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import Message, Receive

_MOST_BYTES = 64 * 1024
_SECONDS = 1.0


class BodyReading:
    """Knows whether the body of a request was read to its end."""

    def __init__(self, headers: Headers, receive: Receive) -> None:
        self._receive = receive
        self._is_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        declared = headers.get("content-length", "0")
        # A client that waits for "100 Continue" has sent nothing yet, and shall not be asked for it.
        self._may_be_read = "expect" not in headers and len(declared) < 10 and int(declared) <= _MOST_BYTES

    async def receive(self) -> Message:
        """Return the next message of the request."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._is_read = True
        return message

    async def read_rest(self) -> bool:
        """Read what is left of a small body; False: more is to come, so that the connection must be closed."""
        if self._is_read or not self._may_be_read:
            return self._is_read
        size = 0
        try:
            async with asyncio.timeout(_SECONDS):
                while not self._is_read and size <= _MOST_BYTES:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
        return self._is_read
