"""Records the requests of the service's clients: each is a turn, and its answer passes as bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeAlias

from convstore.conversations.earlier_requests import find_living_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.takeover import is_held
from convstore.leases.turn_allowance import begin_within
from convstore.leases.waiting import repeat_while_busy
from convstore.provider.model_clients import ModelClients
from convstore.provider.openai_client import make_async_client
from convstore.store.async_store import AsyncStore
from convstore.turns.recorded_call import RecordedCall
from convstore.turns.recorded_start import RecordedRequest
from convstore.turns.stateful_start import StatefulRequest
from convstore.turns.turn_start import BegunTurn, StartedTurn
from convstore.values.api_key import TurnAllowance
from convstore.values.identifiers import ConversationKey, make_conversation_id
from convstore.values.results import Turn, TurnStatus
from convstore.values.steps import DatabaseWork, Steps

ClientCall: TypeAlias = RecordedRequest | StatefulRequest
"""What a client asks: with all messages, or with the new ones."""

_ANY_NUMBER = TurnAllowance()
_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 1.0


class RequestRecorder:
    """Begins recorded calls, and ends those that still run when the service ends.

    Args:
        store: of any owner: a request names its own.
        observe: is told of each turn that has ended here.
        routes: patterns of models, each with the profile of the server to ask; the store's own is asked for others.
    """

    def __init__(
        self,
        store: AsyncStore,
        observe: Callable[[Turn], object] | None = None,
        routes: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._observe = observe
        self._routes = [
            (pattern, ModelClients(None, partial(make_async_client, None, profile))) for pattern, profile in routes
        ]
        self._engine = store._engine
        self._threads = store._threads
        self._runner = store._runner
        self._running: set[asyncio.Task[None]] = set()

    async def get_client(self, model: object = None) -> Any:
        """Return the client of a model's server.

        Raises:
            NotConfigured: none is named.
        """
        clients = self._engine.clients
        if isinstance(model, str):
            clients = next((found for pattern, found in self._routes if fnmatchcase(model, pattern)), clients)
        return await self._threads.run(partial(clients.get, asyncio.get_running_loop()))

    async def record(
        self,
        client: Any,
        request: ClientCall,
        body: bytes,
        *,
        allowance: TurnAllowance = _ANY_NUMBER,
        wait: float = 0.0,
        stops_when_left: bool = False,
    ) -> RecordedCall | Turn:
        """Begin a turn with a client's request, and call the model with its body.

        Args:
            client: of the model's server (`get_client`).
            body: what is sent; of a request with the new messages alone, convstore makes it.
            allowance: how much the owner may ask.
            wait: seconds to wait for a conversation that the client names.
            stops_when_left: whether the call is stopped when the client leaves.

        Returns:
            The call; or the completed turn that the request repeats.

        Raises:
            NotConfigured: no model is named.
            TurnLimitReached: the owner may not ask now.
            ConversationNotFound, ConversationBusy, IdempotencyMismatch: see `start_recorded_turn`.
        """
        while True:
            begun = await self._runner.run(self._begin(request, allowance, wait))
            if not isinstance(begun, Turn):
                break
            ended = await self._wait_for(request.owner, begun)
            if ended is not None:
                return ended
            request = request.repeat(make_conversation_id())
        started = begun.started
        sent = body if not isinstance(started, StartedTurn) else json.dumps(started.body).encode()
        call = RecordedCall(self._engine, self._threads, begun, sent, stops_when_left=stops_when_left)
        task = asyncio.create_task(self._run(call, client))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return call

    async def _run(self, call: RecordedCall, client: Any) -> None:
        try:
            await call.run(client)
        finally:
            if call.turn is not None and self._observe is not None:
                self._observe(call.turn)

    def _begin(self, request: ClientCall, allowance: TurnAllowance, seconds: float) -> Steps[Any]:
        """Begin the turn; wait only for a conversation that the client names."""
        work = partial(self._engine.begin_by, partial(_start, request, allowance), streams=request.streams)
        attempt = DatabaseWork(work, undo=self._engine.give_up)
        if request.conversation is None or not seconds:
            return (yield attempt)
        key = ConversationKey(request.owner, request.conversation)
        held = DatabaseWork(partial(self._engine.transactions.read, is_held, key))
        return (yield from repeat_while_busy(attempt, held, seconds, self._engine.name_line(key)))

    async def _wait_for(self, owner: str, turn: Turn) -> Turn | None:
        """Return a turn when it has completed; None: it ended otherwise, or its process died."""
        key = ConversationKey(owner, turn.conversation_id)
        pause = _FIRST_LOOK_SECONDS
        while turn.status is TurnStatus.RUNNING:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK_SECONDS)
            look = partial(self._engine.transactions.read, find_living_turn, key, turn.seq)
            found = await self._threads.run(look)
            if found is None:
                return None
            turn = found
        return turn if turn.status is TurnStatus.COMPLETED else None

    @property
    def running(self) -> int:
        """Number of calls that run now."""
        return len(self._running)

    async def finish(self, seconds: float) -> None:
        """Wait until all calls have ended; after some seconds, stop the others, and keep the parts of their replies."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        rest = list(self._running)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for _, clients in self._routes:
            client = clients.forget(asyncio.get_running_loop())
            if client is not None:
                await client.close()


def _start(request: ClientCall, allowance: TurnAllowance, work: UnitOfWork, lease: Any) -> BegunTurn | Turn:
    return begin_within(work, request.owner, allowance, partial(request.start, work, lease))
