"""What the turns of one store run on: transactions, model clients, the heartbeat. Begins and ends turns."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from convstore.db.delta_rows import insert_delta
from convstore.db.lease_rows import Lease, is_stop_requested, renew_lease
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.transactions import OwnTransactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import Conflict, ConversationNotFound, InvalidInput, ReplyNotStored
from convstore.leases.heartbeat import Beat, Heartbeat, Watched
from convstore.leases.process_locks import abandon_token, close_lock, make_token, release_token
from convstore.leases.takeover import is_held
from convstore.leases.waiting_lines import LINES, LineName
from convstore.provider.call_tracing import begin_call_span, end_call_span
from convstore.provider.model_clients import ModelClients
from convstore.provider.raw_answer import MAX_REPLY_BYTES
from convstore.turns.call_recorder import CallRecorder
from convstore.turns.turn_end import end_turn
from convstore.turns.turn_request import TurnRequest
from convstore.turns.turn_start import BegunTurn, StartedTurn, start_turn
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Turn
from convstore.values.turn_outcome import TurnOutcome

_logger = logging.getLogger(__name__)

B = TypeVar("B", bound=BegunTurn)

_engines: weakref.WeakSet[TurnEngine] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class TurnHere(Generic[B]):
    """A turn that runs in this process: stored, and kept alive by the heartbeat."""

    started: B
    recorder: CallRecorder
    watched: Watched
    span: Any = None
    """Of the call, for OpenTelemetry."""
    process: int = field(default_factory=os.getpid)

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process may end it: a forked child has only a copy of what its parent runs."""
        return self.process == os.getpid()


LiveTurn: TypeAlias = TurnHere[StartedTurn]
"""A turn with a request that convstore makes."""


class TurnEngine:
    """Shared by a store and its views. Safe to share between threads, and after a fork.

    Args:
        lease_span: for how long a turn holds its conversation after its process was last heard of.
        retries: how often a call is repeated if the model surely generated nothing.
        find_model: returns the model to ask if neither the call nor the conversation names one, or None.
        max_reply_bytes: the largest answer that is read, for clients that convstore makes.
    """

    def __init__(
        self,
        transactions: OwnTransactions,
        clients: ModelClients,
        *,
        lease_span: timedelta,
        retries: int,
        find_model: Callable[[], str | None],
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.transactions = transactions
        self.clients = clients
        self.retries = retries
        self.max_reply_bytes = max_reply_bytes
        self._find_model = find_model
        self._lease_span = lease_span
        self._heartbeat = Heartbeat(lease_span, self._store_beats, transactions.database.shrink_idle_log)
        self._path = transactions.database.path
        _engines.add(self)
        weakref.finalize(self, close_lock, self._path, blocking=False).atexit = False

    @property
    def default_model(self) -> str | None:
        """The model to ask if neither the call nor the conversation names one."""
        return self._find_model()

    def start_anew_after_fork(self) -> None:
        """Use new sockets, locks and threads: a forked child has its parent's."""
        self.transactions.renew_locks_after_fork()
        self.clients.forget_after_fork()
        self._heartbeat.start_anew_after_fork()

    def begin(self, key: ConversationKey, request: TurnRequest) -> LiveTurn | Turn:
        """Store a request, and keep its lease alive until `end`; or return the completed turn that has the reply.

        Raises:
            ConversationBusy: another turn holds the conversation.
            InvalidInput: the request cannot be sent or stored, or the prices are wrong. Prices are checked here,
                because after the call it would be too late.
        """
        return self.begin_by(lambda work, lease: start_turn(work, key, request, lease), streams=request.terms.stream)

    def begin_by(self, start: Callable[[UnitOfWork, Lease], B | Turn], *, streams: bool) -> TurnHere[B] | Turn:
        """Begin a turn by a transaction of the caller's, and keep its lease alive until `end`.

        Args:
            start: starts a turn under a lease, or returns an earlier turn: then no turn has begun.
            streams: whether the reply comes in pieces, which are stored while the turn runs.

        Raises:
            What `start` raises.
        """
        self.transactions.services.get_prices()
        self.transactions.prepare()  # a lock file lies beside a database that exists
        lease = Lease(make_token(self._path), self._lease_span)
        try:
            started = self.transactions.write_repeatable(start, lease)
        except (Conflict, ConversationNotFound, InvalidInput):
            release_token(lease.token)
            raise
        except BaseException:
            abandon_token(lease.token)  # the turn may be stored: the answer to the commit may have been lost
            raise
        if isinstance(started, Turn):
            release_token(lease.token)
            return started
        LINES.note_begin(self.name_line(started.turn.key))
        recorder = CallRecorder()
        take_received = recorder.take_unwritten if streams else None
        span = begin_call_span(started.turn, self.clients.get, getattr(started, "body", {}).get("messages"))
        return TurnHere(started, recorder, self._heartbeat.watch(started.turn, take_received), span)

    def name_line(self, key: ConversationKey) -> LineName:
        """Return the line in which callers of this process wait for a conversation."""
        return self.transactions.identity, key

    def is_held(self, key: ConversationKey) -> bool:
        """Return True if a turn that may be alive holds the conversation. Only reads."""
        return self.transactions.read(is_held, key)

    def end(self, live: TurnHere[Any], outcome: TurnOutcome) -> tuple[Turn, bool]:
        """Store how a turn ended; return it, and whether it still held its conversation.

        Raises:
            ReplyNotStored: the database failed, or no longer has the turn; the error carries the model's answer.
        """
        end_call_span(live.span, outcome)
        try:
            return self._end(live, outcome)
        finally:
            LINES.note_end(self.name_line(live.started.turn.key))

    def _end(self, live: TurnHere[Any], outcome: TurnOutcome) -> tuple[Turn, bool]:
        turn = live.started.turn
        self._heartbeat.forget(live.watched)
        has_deltas = live.watched.written > 0

        def store() -> tuple[Turn, bool]:
            return self.transactions.write_patiently(end_turn, turn, outcome, has_deltas=has_deltas)

        interruption: BaseException | None = None
        try:
            try:
                ended = store()
            except Exception:
                raise
            except BaseException as error:  # Ctrl-C in the middle of it: the reply is stored all the same
                ended, interruption = store(), error
        except BaseException as error:
            abandon_token(turn.token)
            _logger.error(
                "conversation %s: the end of turn %d was not stored (%s)", turn.key.id, turn.seq, type(error).__name__
            )
            if outcome.completion is None or not isinstance(error, Exception):
                raise
            raise ReplyNotStored(
                f"conversation {turn.key.id!r}, turn {turn.seq}: the model answered and the reply could not be stored "
                f"({error}); this error carries the reply",
                outcome.completion,
            ) from error
        release_token(turn.token)
        if interruption is not None:
            raise interruption
        return ended

    def give_up(self, begun: TurnHere[Any] | Turn) -> None:
        """End a turn that was cancelled while it began."""
        if isinstance(begun, TurnHere):
            self.end(begun, begun.recorder.end_stopped())

    def _store_beats(self, beats: Sequence[Beat]) -> list[tuple[bool, bool]]:
        if any(beat.delta is not None or beat.renews_lease for beat in beats):
            return self.transactions.write_repeatable(_store_beats, beats, self._lease_span)
        return self.transactions.read(_look_for_stops, beats)

    def close(self) -> None:
        """Stop the heartbeat, close the database's connections, and remove the lock file."""
        self._heartbeat.close()
        self.transactions.close()
        close_lock(self._path)


def _look_for_stops(work: UnitOfWork, beats: Sequence[Beat]) -> list[tuple[bool, bool]]:
    return [(True, is_stop_requested(work.connection, beat.turn.key, beat.turn.seq)) for beat in beats]


def _store_beats(work: UnitOfWork, beats: Sequence[Beat], span: timedelta) -> list[tuple[bool, bool]]:
    """Store beats; return of each whether its turn still holds its conversation, and whether it was asked to stop."""
    limit_lock_wait(work.connection, beats[0].turn.key)
    return [_store_beat(work, beat, Lease(beat.turn.token, span)) for beat in beats]


def _store_beat(work: UnitOfWork, beat: Beat, lease: Lease) -> tuple[bool, bool]:
    turn = beat.turn
    is_stopped = is_stop_requested(work.connection, turn.key, turn.seq)
    holds = True
    if beat.renews_lease:
        holds = renew_lease(work.connection, turn.key, lease, work.now)
    if beat.delta is not None and holds:
        insert_delta(work.connection, turn.key, turn.seq, beat.number, beat.delta)
    return holds, is_stopped


def _start_anew_after_fork() -> None:
    for engine in list(_engines):
        engine.start_anew_after_fork()


os.register_at_fork(after_in_child=_start_anew_after_fork)
