"""The response with which the answer to a recorded call passes to its client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from convstore.turns.recorded_call import RecordedCall


class RecordedResponse(Response):
    """Passes on a body while it comes. If the client leaves, the call goes on without it."""

    def __init__(self, call: RecordedCall, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, headers)
        # The length is not known; Starlette has written that of no body.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        is_open = True

        async def send_piece(piece: bytes) -> None:
            if is_open:
                message: Message = {"type": "http.response.body", "body": piece, "more_body": True}
                await send(message)

        delivering = asyncio.ensure_future(self._call.deliver(send_piece))
        leaving = asyncio.ensure_future(wait_until_left(receive))
        try:
            await asyncio.wait({delivering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                return
            await delivering
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            is_open = False
            self._call.leave()
            for task in (delivering, leaving):
                task.cancel()
            await asyncio.gather(delivering, leaving, return_exceptions=True)


async def wait_until_left(receive: Receive) -> None:
    """Wait until the client has left. The body of its request was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
