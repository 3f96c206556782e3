"""A reply while it streams in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, GEN_RUNNING, getgeneratorstate
from types import TracebackType
from typing import Self, TypeAlias

from convstore.errors import ConvstoreError
from convstore.turns.sync_runner import SyncRunner
from convstore.turns.turn_engine import TurnEngine
from convstore.turns.turn_flow import ReplyClosed, ReplyState
from convstore.values.results import Turn
from convstore.values.steps import Steps

StreamFlow: TypeAlias = Callable[[ReplyState], Steps[None]]
"""Makes the flow of a streamed turn, which fills in the state that a reader sees."""


class StreamedReply:
    """What a reply is, sync or async."""

    _is_over = True  # on the class, for a reply that was refused while it was made

    def __init__(self, engine: TurnEngine, make_flow: StreamFlow) -> None:
        self._engine = engine
        self._make_flow = make_flow
        self._state = ReplyState()
        self._flow: Steps[None] | None = None
        self._is_over = False

    def __del__(self) -> None:
        # Nobody has the reply any more, and nobody closed it. It is not ended here: this may run in the middle of
        # anything.
        live = self._state.live if not self._is_over else None
        if live is not None:
            live.watched.end_abandoned = partial(self._engine.end, live, live.recorder.end_stopped())

    @property
    def turn(self) -> Turn:
        """The turn, once it is over.

        Raises:
            ConvstoreError: it is not over yet, or could not be stored.
        """
        if self._state.turn is None:
            raise ConvstoreError("the reply is not over: read all its pieces, or close it, first")
        return self._state.turn

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return "".join(self._state.pieces)

    def _get_flow(self) -> Steps[None]:
        if self._flow is None:
            self._flow = self._make_flow(self._state)
        return self._flow

    def _note_end(self) -> None:
        """Note that the flow has ended: the reply is over; if the turn did not even begin, it can be tried again."""
        if self._state.has_begun:
            self._is_over = self._flow is None or getgeneratorstate(self._flow) == GEN_CLOSED
        else:
            self._flow = None

    def _close_and_get_flow(self) -> Steps[None] | None:
        """Mark the reply as over; return its flow if a turn runs that must be ended, else None."""
        flow, live = self._flow, self._state.live
        if self._is_over or flow is None or live is None or not live.is_of_this_process:
            self._is_over = True
            return None
        if getgeneratorstate(flow) == GEN_RUNNING:  # another thread waits for a chunk: it ends the reply with the next
            live.watched.stop_requested.set()
            return None
        self._is_over = True
        return flow


class ReplyStream(StreamedReply):
    """The pieces of a reply's text, as they come.

    >>> with store.stream(conversation.id, "Tell me a joke") as reply:
    ...     for piece in reply:
    ...         print(piece, end="")
    >>> reply.turn.finish_reason
    'stop'

    The turn begins when the block is entered, or the first piece is asked for. It is over after the last piece. Leaving
    the block sooner stops the reply: the partial text stays in the conversation, and the turn is marked as interrupted.
    """

    def __init__(self, engine: TurnEngine, make_flow: StreamFlow) -> None:
        super().__init__(engine, make_flow)
        self._runner = SyncRunner(engine.clients)

    def __enter__(self) -> Self:
        if self._flow is None and not self._is_over:
            self._advance()
        return self

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next piece of text.

        Raises:
            TurnFailed, ReplyInterrupted, LeaseLost, ReplyNotStored: as `Store.say`.
        """
        while not self._is_over:
            if piece := self._advance():
                return piece
        raise StopIteration

    def close(self) -> None:
        """Stop the reply if it is not over; a partial text is kept. Closing twice does nothing."""
        flow = self._close_and_get_flow()
        if flow is not None:
            with suppress(StopIteration):
                self._runner.advance(flow, ReplyClosed())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self) -> str:
        """Return the next piece, which may be empty."""
        try:
            return self._runner.advance(self._get_flow())
        except StopIteration:
            self._note_end()
            return ""
        except BaseException:
            self._note_end()
            raise


def call_before_waits(reply: ReplyStream, act: Callable[[], object]) -> bool:
    """Let a function be called each time before a reply that has begun waits for its server.

    Then every piece that has come was given to the reader.

    Args:
        act: must not raise an exception.

    Returns:
        Whether it will be called: not with a client of the caller's own, and not if the reply is complete.
    """
    live = reply._state.live
    if live is None:
        return False
    stop = live.watched.stop_requested
    stop.before_wait = act
    return stop.has_waited
