"""What a store runs on: its database, its model client, and the heartbeat of its running turns."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from convstore import provider, turns
from convstore.errors import ConversationBusy, DatabaseError, ReplyNotStored
from convstore.heartbeat import Heartbeat
from convstore.ledger import leases, schema
from convstore.ledger import turns as ledger_turns
from convstore.ledger.database import Database
from convstore.ledger.turns import Ending, RunningTurn
from convstore.records import Turn

P = ParamSpec("P")
R = TypeVar("R")

LEASE = timedelta(seconds=30)
"""How long a turn holds its conversation after its process was last heard of."""

_FIRST_POLL, _LONGEST_POLL = 0.02, 0.5  # seconds between two looks of a waiting caller


class Runtime:
    """Shared by a store and by its views for owners. Safe to share between threads."""

    def __init__(self, database: Database, client: Any, base_url: str | None) -> None:
        self.database = database
        self._client = provider.without_retries(client) if client is not None else None
        self._base_url = base_url
        self._heartbeat = Heartbeat(LEASE, self._renew)
        self._ready = False
        self._preparing = threading.Lock()

    def client(self) -> Any:
        """Return the client that calls the model; made from the environment at the first call, unless given.

        Raises:
            NotConfigured: there is neither a key nor a server.
        """
        with self._preparing:
            if self._client is None:
                self._client = provider.make_client(self._base_url)
            return self._client

    def read(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of database work in a transaction that only reads."""
        self._prepare()
        with self.database.read() as connection:
            return unit(connection, *args, **kwargs)

    def write(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of database work in a transaction, committed when it returns."""
        self._prepare()
        with self.database.write() as connection:
            return unit(connection, *args, **kwargs)

    def write_when_free(
        self,
        wait: float,
        unit: Callable[Concatenate[Connection, str, str, P], R],
        /,
        owner: str,
        conversation_id: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run a unit that needs a conversation to itself; while a turn holds it, wait, reading only.

        Raises:
            ConversationBusy: it was still held after `wait` seconds.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return self.write(unit, owner, conversation_id, *args, **kwargs)
            except ConversationBusy:
                if time.monotonic() >= deadline:
                    raise
            self._wait_until_free(owner, conversation_id, deadline)

    def _wait_until_free(self, owner: str, conversation_id: str, deadline: float) -> None:
        pause = _FIRST_POLL
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311 (spreads callers, hides nothing)
            if not self.read(leases.is_held, owner, conversation_id, datetime.now(UTC)):
                return
            pause = min(pause * 1.5, _LONGEST_POLL)

    def begin(self, owner: str, conversation_id: str, question: turns.Question, wait: float) -> turns.Begun:
        """Put a question on record and keep its lease alive until `end`."""
        begun = self.write_when_free(wait, turns.begin, owner, conversation_id, question, LEASE)
        self._heartbeat.watch(begun.turn)
        return begun

    def end(self, turn: RunningTurn, ending: Ending) -> tuple[Turn, bool]:
        """Record how a turn ended; return it, and whether it still held its conversation.

        Raises:
            ReplyNotStored: the database failed; the error carries what the model answered.
        """
        self._heartbeat.forget(turn)
        try:
            return self.write(ledger_turns.end, turn, ending, datetime.now(UTC))
        except DatabaseError as error:
            if ending.completion is None:
                raise
            raise ReplyNotStored(
                f"conversation {turn.conversation_id}, turn {turn.seq}: the model answered and the reply could not be "
                f"stored ({error})",
                ending.completion,
            ) from error

    def _renew(self, turn: RunningTurn) -> bool:
        return self.write(
            leases.renew,
            turn.owner,
            turn.conversation_id,
            token=turn.token,
            span=LEASE,
            now=datetime.now(UTC),
        )

    def _prepare(self) -> None:
        if not self._ready:
            with self._preparing:
                if not self._ready:
                    schema.ensure(self.database)
                    self._ready = True

    def close(self) -> None:
        """Stop the heartbeat and close the database's connections, and the client if the store made it."""
        self._heartbeat.close()
        self.database.close()
