"""A reply while it streams in."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from convstore import provider, turns
from convstore.completions import NotACompletion
from convstore.errors import ConvstoreError
from convstore.ledger.turns import Ending
from convstore.records import Turn
from convstore.runtime import Runtime


class ReplyStream:
    """The pieces of a reply's text, as they come.

    >>> with store.stream(conversation.id, "Tell me a joke") as reply:
    ...     for piece in reply:
    ...         print(piece, end="")
    >>> reply.turn.finish_reason
    'stop'

    The turn begins when the block is entered (or the first piece is asked for) and is over when the pieces are.
    Leaving the block sooner stops the reply: the text that came stays in the conversation, and the turn is marked as
    interrupted.
    """

    def __init__(
        self, runtime: Runtime, owner: str, conversation_id: str, question: turns.Question, wait: float
    ) -> None:
        self._runtime = runtime
        self._asked = (owner, conversation_id, question, wait)
        self._begun: turns.Begun | None = None
        self._turn: Turn | None = None
        self._over = False
        self._answer = turns.Answer()
        self._chunks: Any = None
        self._pieces: list[str] = []

    @property
    def turn(self) -> Turn:
        """The turn, once it is over.

        Raises:
            ConvstoreError: it is not over yet, or could not be recorded.
        """
        if self._turn is None:
            raise ConvstoreError("the reply is not over: read all its pieces, or close it, first")
        return self._turn

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return "".join(self._pieces)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next piece of text.

        Raises:
            TurnFailed, ReplyInterrupted, LeaseLost, ReplyNotStored: as `Store.say`.
        """
        if self._over:
            raise StopIteration
        self._start()
        try:
            for chunk in self._chunks:
                if piece := self._answer.add(chunk):
                    self._pieces.append(piece)
                    return piece
        except Exception as error:
            self._finish(self._answer.failed(provider.describe(error, self._runtime.client())))
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        self._finish(self._answer.exhausted())
        raise StopIteration

    def close(self) -> None:
        """Stop the reply if it is not over: what came is kept. Closing twice does nothing."""
        if self._begun is not None and not self._over:
            self._finish(self._answer.stopped(), stopped=True)
        self._over = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._begun is not None or self._over:
            return
        client = self._runtime.client()
        self._begun = self._runtime.begin(*self._asked)
        self._answer = turns.Answer()
        try:
            arguments = provider.call_arguments(client, self._begun.request, self._begun.options)
            self._chunks = client.chat.completions.create(**arguments)
            if isinstance(self._chunks, (str, bytes)):
                raise NotACompletion("the provider's answer is not a stream")
        except Exception as error:
            self._finish(self._answer.failed(provider.describe(error, client)))
        except BaseException:
            self.close()
            raise

    def _finish(self, ending: Ending, *, stopped: bool = False) -> None:
        assert self._begun is not None  # noqa: S101 (for the type checker: nothing ends that has not begun)
        self._over = True
        self._hang_up()
        self._turn, held = self._runtime.end(self._begun.turn, ending)
        turns.settle(self._turn, held=held, stopped=stopped)

    def _hang_up(self) -> None:
        """Close the connection: a provider stops generating (and billing) when nobody listens."""
        hang_up = getattr(self._chunks, "close", None)
        if hang_up is not None:
            hang_up()
