"""A reply while it streams in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from convstore.db.turn_writes import Ending
from convstore.errors import ConvstoreError
from convstore.messages.codec import text_of
from convstore.messages.completion import read_completion
from convstore.provider import openai_client
from convstore.turns.model_call import call
from convstore.turns.runtime import Live, Runtime
from convstore.turns.turn_outcome import settle
from convstore.turns.turn_request import Question
from convstore.values.results import Turn
from convstore.values.validation import known_id


class Reply:
    """What a streaming reply is, however it is driven."""

    _live: Live | None = None  # on the class, for one that was refused while it was made
    _over = False

    def __init__(self, runtime: Runtime, owner: str, conversation_id: str, question: Question, wait: float) -> None:
        self._runtime = runtime
        self._owner = owner
        self._conversation_id = known_id(conversation_id)
        self._question = question
        self._wait = wait
        self._turn: Turn | None = None
        self._chunks: Any = None
        self._pieces: list[str] = []
        self._pending = ""

    def __del__(self) -> None:
        # Nobody has it any more, and nobody closed it. Not here: this may run in the middle of anything.
        if self._live is not None and not self._over:
            self._live.watched.abandoned = partial(self._runtime.end, self._live, self._live.answer.stopped())

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

    def _begun(self, live: Live | Turn) -> None:
        if isinstance(live, Live):
            self._live = live
            return
        # An idempotency key that has succeeded before: its reply comes in one piece.
        self._turn, self._over = live, True
        self._pending = live.text

    def _take(self, chunk: object) -> str:
        assert self._live is not None  # noqa: S101 (for the type checker: nothing comes before the beginning)
        piece = self._live.answer.add(chunk)
        if piece:
            self._pieces.append(piece)
        return piece

    def _take_pending(self) -> str:
        piece, self._pending = self._pending, ""
        self._pieces.append(piece)
        return piece

    def _whole(self, body: bytes) -> Ending:
        """The ending of a reply that came whole, though a stream was asked for: its text comes in one piece."""
        assert self._live is not None  # noqa: S101
        completion = read_completion(openai_client.read_whole(body))
        self._pending = text_of(completion.messages[0])
        return self._live.answer.whole(completion)

    @property
    def _is_stopped(self) -> bool:
        return self._live is not None and self._live.watched.stop.is_set()

    def _failure(self, error: Exception) -> Ending:
        assert self._live is not None  # noqa: S101
        return self._live.answer.failed(openai_client.describe(error, self._runtime.client()))


class ReplyStream(Reply):
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
        self,
        runtime: Runtime,
        owner: str,
        conversation_id: str,
        question: Question,
        wait: float,
        afterwards: Callable[[Turn], None],
    ) -> None:
        super().__init__(runtime, owner, conversation_id, question, wait)
        self._afterwards = afterwards

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
        self._start()
        if self._pending:
            return self._take_pending()
        if self._over:
            raise StopIteration
        try:
            if not self._is_stopped:
                for chunk in self._chunks:
                    if piece := self._take(chunk):
                        return piece
                    if self._is_stopped:
                        break
        except Exception as error:
            self._finish(self._failure(error))
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        if self._is_stopped:
            self.close()
        else:
            assert self._live is not None  # noqa: S101
            self._finish(self._live.answer.exhausted())
        raise StopIteration

    def close(self) -> None:
        """Stop the reply if it is not over: what came is kept. Closing twice does nothing."""
        if self._live is not None and not self._over and self._live.is_ours:
            self._finish(self._live.answer.stopped(), stopped=True)
        self._over = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._live is not None or self._over:
            return
        runtime = self._runtime
        client = runtime.client()
        begin = partial(runtime.begin, self._owner, self._conversation_id, self._question)
        self._begun(runtime.when_free(self._owner, self._conversation_id, self._wait, begin))
        if self._live is None:
            return
        try:
            self._chunks = call(client, self._live, runtime.retries)
            openai_client.check_stream(self._chunks)
            ending = self._whole(self._chunks.response.read()) if openai_client.is_whole(self._chunks) else None
        except Exception as error:
            self._finish(self._failure(error))
        except BaseException:
            self.close()
            raise
        else:
            if ending is not None:
                self._finish(ending)

    def _finish(self, ending: Ending, *, stopped: bool = False) -> None:
        assert self._live is not None  # noqa: S101
        self._over = True
        # A provider stops generating (and billing) when nobody listens.
        hang_up = getattr(self._chunks, "close", None)
        if hang_up is not None:
            hang_up()
        self._turn, held = self._runtime.end(self._live, ending)
        settle(self._turn, held, stopped=stopped)
        if not stopped:
            self._afterwards(self._turn)
