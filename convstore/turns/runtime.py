"""What a store runs on: its database, its model client, and the heartbeat of its running turns."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convstore.db import delta_rows, lease_rows, schema_upgrade, turn_writes
from convstore.db.engine import Database
from convstore.db.turn_writes import Ending, RunningTurn
from convstore.errors import (
    Conflict,
    ConversationBusy,
    ConversationNotFound,
    DatabaseError,
    DatabaseUnavailable,
    InvalidInput,
    ReplyNotStored,
)
from convstore.leases import process_locks
from convstore.leases.heartbeat import Heartbeat, Watched
from convstore.messages.token_estimate import Counter, checked
from convstore.provider import openai_client
from convstore.turns import turn_start
from convstore.turns.turn_outcome import Answer
from convstore.turns.turn_request import Question
from convstore.usage.prices import Prices, price_source
from convstore.values.results import Turn

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_POLL, _LONGEST_POLL = 0.02, 0.4  # seconds between two looks of a waiting caller
_PATIENCE = 1.0  # seconds for which work is done again that a broken connection undid
_END_PATIENCE = 10.0  # and where the work is to store a reply: long enough for a server to start again


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Live:
    """A turn that runs in this process: on record, and kept alive."""

    begun: turn_start.Begun
    answer: Answer
    watched: Watched
    process: int = field(default_factory=os.getpid)

    @property
    def is_ours(self) -> bool:
        """Whether it is this process's to end; a forked child has only a copy of what its parent runs."""
        return self.process == os.getpid()


class Runtime:
    """Shared by a store and by its views for owners. Safe to share between threads, and after a fork.

    Args:
        database: where conversations are.
        client: the caller's own openai client, sync or async; None: one is made by `make_client`.
        lease: how long a turn holds its conversation after its process was last heard of.
        count: counts a message's tokens.
        prices: gives the prices of tokens, when they are first needed; else they are the configuration's.
    """

    def __init__(
        self,
        database: Database,
        client: Any,
        make_client: Callable[[], Any],
        *,
        lease: timedelta,
        retries: int,
        count: Counter,
        prices: Callable[[], Prices] | None = None,
    ) -> None:
        self.database = database
        self.retries = retries
        self.count = checked(count)
        self._read_prices = prices or price_source(None)
        self._prices: Prices | None = None
        self._lease = lease
        self._given_client = openai_client.without_retries(client) if client is not None else None
        self._made_client: Any = None
        self._used_in: object = None
        self._make_client = make_client
        self._ready = False
        self._start()
        _runtimes.add(self)

    def _start(self) -> None:
        self._preparing = threading.Lock()
        self._heartbeat = Heartbeat(self._lease, self._beat)

    def after_fork(self) -> None:
        """Begin anew in a forked child: it has its parent's sockets and locks, and not its threads."""
        self._made_client = None
        self._start()

    def client(self, loop: object = None) -> Any:
        """Return the client that calls the model; made from the environment at the first call, unless given.

        Args:
            loop: the event loop that is to use it: a client made here and used in another one is replaced.

        Raises:
            NotConfigured: there is neither a key nor a server.
        """
        if self._given_client is not None:
            return self._given_client
        with self._preparing:
            if self._made_client is None or (loop is not None and self._used_in not in (None, loop)):
                self._made_client = self._make_client()
                self._used_in = None
            self._used_in = loop or self._used_in
            return self._made_client

    def forget_client(self, loop: object = None) -> Any:
        """Return the client that was made here, for closing, or None; the next call makes another.

        Args:
            loop: the event loop in which it is to be closed: one used in another loop cannot be.
        """
        with self._preparing:
            client, self._made_client = self._made_client, None
            return client if self._used_in in (None, loop) else None

    def prices(self) -> Prices:
        """Return the prices of tokens; a file of them is read once.

        Raises:
            InvalidInput: it is wrong.
        """
        if self._prices is None:
            self._prices = self._read_prices()
        return self._prices

    # --- transactions ---

    def read(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of database work in a transaction that only reads; again, where the connection broke."""
        return self._done(self.database.read, lambda connection: unit(connection, *args, **kwargs), repeatable=True)

    def write(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of database work in a transaction, committed when it returns.

        Where the connection broke, or others were in the way (a deadlock), it is done again; but not where the commit
        may have gone through: nothing is ever stored twice.
        """
        return self._done(self.database.write, lambda connection: unit(connection, *args, **kwargs), repeatable=False)

    def write_repeatable(
        self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `write`, for a unit that does no harm when it is done twice."""
        return self._done(self.database.write, lambda connection: unit(connection, *args, **kwargs), repeatable=True)

    def _done(
        self,
        transaction: Callable[[], AbstractContextManager[Connection]],
        unit: Callable[[Connection], R],
        *,
        repeatable: bool,
        patience: float = _PATIENCE,
    ) -> R:
        self._prepare()
        give_up = time.monotonic() + patience
        pause = _FIRST_POLL
        while True:
            returned = False
            try:
                with transaction() as connection:
                    result = unit(connection)
                    returned = True
            except IntegrityError as error:
                # What a constraint means, its own unit knows and says; this one nobody expected.
                raise DatabaseError(f"database {self.database.label}: a constraint refused it: {error.orig}") from error
            except DatabaseUnavailable as error:
                if not error.transient or (returned and not repeatable) or time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (spreads callers, hides nothing)
                pause *= 2
            else:
                return result

    def _prepare(self) -> None:
        if not self._ready:
            with self._preparing:
                if not self._ready:
                    schema_upgrade.ensure(self.database)
                    self._ready = True

    # --- waiting for a conversation ---

    def when_free(self, owner: str, conversation_id: str, wait: float, attempt: Callable[[], R]) -> R:
        """Return what `attempt` returns; while a turn holds the conversation, wait, reading only.

        Raises:
            ConversationBusy: it was still held after `wait` seconds.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return attempt()
            except ConversationBusy:
                if time.monotonic() >= deadline:
                    raise
            for pause in pauses(deadline):
                time.sleep(pause)
                if not self.is_held(owner, conversation_id):
                    break

    def is_held(self, owner: str, conversation_id: str) -> bool:
        """Whether a turn holds the conversation whose process may still live. Only reads."""
        return self.read(lease_rows.is_held, owner, conversation_id, datetime.now(UTC), process_locks.is_alive)

    # --- a turn ---

    def begin(self, owner: str, conversation_id: str, question: Question) -> Live | Turn:
        """Put a question on record and keep its lease alive until `end`; or return the turn that has the answer.

        Raises:
            ConversationBusy: another turn holds the conversation.
            InvalidInput: the prices are wrong, among other things: found here, because at the end it would be too late.
        """
        self.prices()
        lease = turn_start.Lease(process_locks.new_token(), self._lease, process_locks.is_alive)
        try:
            begun = self.write_repeatable(turn_start.begin, owner, conversation_id, question, lease)
        except (Conflict, ConversationNotFound, InvalidInput):
            process_locks.release(lease.token)
            raise
        except BaseException:
            process_locks.abandon(lease.token)  # it may be on record: the commit's outcome may have been lost
            raise
        if isinstance(begun, Turn):
            process_locks.release(lease.token)
            return begun
        answer = Answer()
        take = answer.take_unwritten if question.stream else None
        return Live(begun, answer, self._heartbeat.watch(begun.turn, take))

    def end(self, live: Live, ending: Ending) -> tuple[Turn, bool]:
        """Record how a turn ended; return it, and whether it still held its conversation, for `turns.settle`.

        Raises:
            ReplyNotStored: the database failed, or no longer has the turn; the error carries what the model answered.
        """
        turn = live.begun.turn
        completion = ending.completion
        if completion is not None:
            asked = turn.request.get("model")
            ending = replace(
                ending, cost=self.prices().cost(completion.usage, completion.model, asked, turn.started_at)
            )
        self._heartbeat.forget(live.watched)
        has_deltas = live.watched.written > 0
        now = datetime.now(UTC)

        def record() -> tuple[Turn, bool]:
            # `end` knows its own work when it comes a second time, and a reply is worth some patience.
            return self._done(
                self.database.write,
                lambda connection: turn_writes.end(connection, turn, ending, now, has_deltas=has_deltas),
                repeatable=True,
                patience=_END_PATIENCE,
            )

        interruption: BaseException | None = None
        try:
            try:
                ended = record()
            except Exception:
                raise
            except BaseException as error:  # Ctrl-C, in the middle of it: what came is stored all the same
                ended, interruption = record(), error
        except BaseException as error:
            process_locks.abandon(turn.token)
            if ending.completion is None or not isinstance(error, Exception):
                raise
            raise ReplyNotStored(
                f"conversation {turn.conversation_id}, turn {turn.seq}: the model answered and the reply could not be "
                f"stored ({error})",
                ending.completion,
            ) from error
        process_locks.release(turn.token)
        if interruption is not None:
            raise interruption
        return ended

    def _beat(self, turn: RunningTurn, number: int, delta: dict[str, Any] | None, renew: bool) -> tuple[bool, bool]:
        if delta is None and not renew:
            return True, self.read(lease_rows.is_stop_requested, turn.owner, turn.conversation_id, turn.seq)
        return self.write_repeatable(_beat, turn, number, delta, self._lease if renew else None)

    def close(self) -> None:
        """Stop the heartbeat and close the database's connections."""
        self._heartbeat.close()
        self.database.close()
        self._ready = False  # a database in memory is gone with its connection


def pauses(deadline: float) -> Iterator[float]:
    """Yield how many seconds to wait before each further look, until `deadline` (of `time.monotonic`)."""
    pause = _FIRST_POLL
    while (left := deadline - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1.5))  # noqa: S311 (spreads callers, hides nothing)
        pause = min(pause * 1.5, _LONGEST_POLL)


def _beat(
    connection: Connection, turn: RunningTurn, number: int, delta: dict[str, Any] | None, span: timedelta | None
) -> tuple[bool, bool]:
    stop = lease_rows.is_stop_requested(connection, turn.owner, turn.conversation_id, turn.seq)
    held = True
    if span is not None:
        held = lease_rows.renew(
            connection, turn.owner, turn.conversation_id, token=turn.token, span=span, now=datetime.now(UTC)
        )
    if delta is not None and held:
        delta_rows.add(connection, turn.owner, turn.conversation_id, turn.seq, number, delta)
    return held, stop


def _after_fork() -> None:
    for runtime in list(_runtimes):
        runtime.after_fork()


os.register_at_fork(after_in_child=_after_fork)
