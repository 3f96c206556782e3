"""Record requests without HTTP between the client and the service; the model's server is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers

from convstore import AsyncStore
from convstore.server.completion_requests import SentRequest, make_recorded_request
from convstore.store.request_recorder import RequestRecorder
from convstore.turns.recorded_call import AnswerHead, RecordedCall
from convstore.values.results import Turn

R = TypeVar("R")


@dataclass
class Answered:
    """What a client got, and where it is stored."""

    status: int
    body: bytes
    conversation: str
    turn: int

    @property
    def message(self) -> dict[str, Any]:
        """The message of an answer that came whole."""
        found: dict[str, Any] = json.loads(self.body)["choices"][0]["message"]
        return found


class Recording:
    """A store with a recorder, in an event loop of its own."""

    def __init__(self, url: str, upstream: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.store = AsyncStore(url, base_url=upstream)
        self.recorder = self.run(self._make_recorder())

    async def _make_recorder(self) -> RequestRecorder:
        return RequestRecorder(self.store)

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the loop."""
        return self._runner.run(work)

    def ask(self, messages: list[dict[str, Any]], *, key: str = "k", **body: Any) -> Answered:
        """Send a request, and return the answer when it is whole."""
        return self.run(self.ask_async(messages, key=key, **body))

    async def ask_async(
        self,
        messages: list[dict[str, Any]],
        *,
        key: str = "k",
        owner: str = "",
        headers: dict[str, str] | None = None,
        wait: float = 0.0,
        matches_cut: bool = True,
        **body: Any,
    ) -> Answered:
        """Send a request, and return the answer when it is whole."""
        call = await self.begin(
            messages, key=key, owner=owner, headers=headers, wait=wait, matches_cut=matches_cut, **body
        )
        if isinstance(call, Turn):
            whole = {"choices": [{"message": call.message}]}
            return Answered(200, json.dumps(whole).encode(), call.conversation_id, call.seq)
        return await receive(call)

    async def begin(
        self,
        messages: list[dict[str, Any]],
        *,
        key: str = "k",
        owner: str = "",
        headers: dict[str, str] | None = None,
        wait: float = 0.0,
        matches_cut: bool = True,
        **body: Any,
    ) -> RecordedCall | Turn:
        """Send a request, and return the call; or the turn that it repeats."""
        whole = {"model": "test-model", "messages": messages, **body}
        sent = SentRequest(whole, json.dumps(whole).encode(), Headers(headers or {}))
        request = make_recorded_request(owner, key, sent, matches_cut=matches_cut)
        return await self.recorder.record(await self.recorder.get_client(), request, sent.raw, wait=wait)

    def read_path(self, conversation: str, owner: str = "") -> list[dict[str, Any]]:
        """Return the messages of a conversation's path."""
        return self.run(_collect(self.store.for_owner(owner), conversation))


async def _collect(store: AsyncStore, conversation: str) -> list[dict[str, Any]]:
    return [record.message for record in await store.messages(conversation)]


async def receive(call: RecordedCall) -> Answered:
    """Return the whole answer to a call."""
    head: AnswerHead = await call.get_head()
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    await call.deliver(keep)
    turn = call.live.started.turn
    return Answered(head.status, b"".join(pieces), turn.key.id, turn.seq)


@contextmanager
def recording(url: str, upstream: str) -> Iterator[Recording]:
    """Open a store with a recorder."""
    with asyncio.Runner() as runner:
        opened = Recording(url, upstream, runner)
        try:
            yield opened
        finally:
            opened.run(opened.recorder.finish(10.0))
            opened.run(opened.store.close())
