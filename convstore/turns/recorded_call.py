"""A call with the body of a client of the service: its answer is passed on as bytes, and recorded beside.

The call is a task of its own, which goes on when the client has left: the reply is paid for. What tells the client that
the reply is complete (`[DONE]`, the end of the body) is held back until the reply is stored, because with it the client
sends its next request.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from convstore.errors import ConvstoreError
from convstore.messages.chunk_template import ChunkTemplate
from convstore.messages.completion import NotACompletion, read_completion
from convstore.provider.byte_call import COMPLETIONS, ByteAnswer, send_body
from convstore.provider.error_texts import describe_error, hide_key, hide_key_in_body
from convstore.provider.event_stream import DONE, EventDecoder, StreamError, parse_event
from convstore.provider.raw_answer import ReplyTooLarge
from convstore.provider.response_kind import parse_json_body
from convstore.turns.call_recorder import CallRecorder
from convstore.turns.thread_pool import ThreadPool
from convstore.turns.turn_engine import TurnEngine, TurnHere
from convstore.turns.turn_start import BegunTurn
from convstore.values.results import Turn, TurnStatus
from convstore.values.turn_outcome import TurnOutcome

_logger = logging.getLogger(__name__)

_REST_SECONDS = 1.0
_END_MARK = b"[DONE]"
_END = b"data: [DONE]\n\n"
NOT_STORED = "the model answered, and the reply could not be stored"


class CallFailed(Exception):
    """No answer came of the model's server; or one came, and could not be stored.

    Args:
        facts: what is known of the error: `type`, `message`, perhaps `status` and `code`.
        body: the answer that could not be stored.
    """

    def __init__(self, facts: Mapping[str, Any], body: bytes = b"") -> None:
        super().__init__(str(facts.get("message", "")))
        self.facts = facts
        self.body = body


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The beginning of an answer."""

    status: int
    headers: Mapping[str, str]
    is_stream: bool


@dataclass(frozen=True, slots=True)
class _Received:
    """An answer that came to its end, and how the turn ends by it."""

    outcome: TurnOutcome
    answer: ByteAnswer | None
    rest: bytes = b""
    """What the client gets when the reply is stored."""
    failure: Mapping[str, Any] | None = None
    cancelled: asyncio.CancelledError | None = None


class RecordedCall:
    """A call, from the turn that has begun to the turn's end.

    Args:
        live: the turn.
        body: what the client sent.
        stops_when_left: whether the call is stopped when the client leaves.
    """

    def __init__(
        self,
        engine: TurnEngine,
        threads: ThreadPool,
        live: TurnHere[BegunTurn],
        body: bytes,
        *,
        stops_when_left: bool = False,
    ) -> None:
        self.live = live
        self.turn: Turn | None = None
        """The turn, when it is over."""
        self._engine = engine
        self._threads = threads
        self._body = body
        self._stops_when_left = stops_when_left
        self._head: asyncio.Future[AnswerHead] = asyncio.get_running_loop().create_future()
        self._waiting: deque[bytes] = deque()
        """Pieces that came before the client was ready for them."""
        self._send: Callable[[bytes], Awaitable[None]] | None = None
        self._is_over = asyncio.Event()
        self._is_receiving = False

    async def get_head(self) -> AnswerHead:
        """Return the beginning of the answer, when it has come.

        Raises:
            CallFailed: none came, or the whole one could not be stored.
        """
        return await asyncio.shield(self._head)

    async def deliver(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Give the body of the answer to the one client, piece by piece, until it has all of it.

        The task of the call sends the pieces: to hand each one to another task would cost more than to send it.

        Args:
            send: sends a piece; it waits while the client is slow, and returns at once when the client has left.
        """
        while self._waiting:
            await send(self._waiting.popleft())
        self._send = send
        await self._is_over.wait()
        while self._waiting:  # the end
            await send(self._waiting.popleft())

    def leave(self) -> None:
        """Say that the client has left: the rest is received, and nobody gets it."""
        self._send = _drop
        if self._stops_when_left and not self._is_over.is_set():
            self.live.watched.stop_requested.set()

    async def run(self, client: Any) -> None:
        """Make the call, and record it. Nothing is raised but cancellation."""
        try:
            with self._stopping_task():
                await self._run(client)
        finally:
            self._finish()

    def _stopping_task(self) -> Any:
        """Return a block in which a request to stop the turn cancels what the task waits for."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 (for the type checker: this runs in a task)

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._cancel_once, task)

        return self.live.watched.stop_requested.waking(wake)

    def _cancel_once(self, task: asyncio.Task[None]) -> None:
        if self._is_receiving:
            task.cancel()

    async def _run(self, client: Any) -> None:
        received = await self._receive(client)
        try:
            notes = getattr(self.live.started, "notes", ())
            outcome = replace(received.outcome, notes=(*notes, *received.outcome.notes))
            self.turn, _ = await self._threads.run(partial(self._engine.end, self.live, outcome))
        except ConvstoreError as error:
            _logger.warning("the end of a recorded call was not stored (%s)", type(error).__name__)
            self._fail(CallFailed({"type": type(error).__name__, "message": NOT_STORED}, received.rest))
        else:
            if received.failure is not None:
                self._fail(CallFailed(received.failure))
            else:
                if received.answer is not None:
                    self._begin(received.answer)
                await self._pass(received.rest)
        self._finish()
        if received.answer is not None:
            await _use_up(received.answer)
        if received.cancelled is not None:
            raise received.cancelled

    async def _receive(self, client: Any) -> _Received:
        """Receive the answer, and return what is left to do with it."""
        recorder = self.live.recorder
        answer: ByteAnswer | None = None
        self._is_receiving = True
        try:
            answer = await send_body(client, COMPLETIONS, self._body)
            if answer.is_stream and answer.status < 400:
                return await self._pass_stream(answer, client)
            return await self._read_whole(answer, client)
        except asyncio.CancelledError as error:
            facts = {"type": "Stopped", "message": "the turn was stopped"}
            task = asyncio.current_task()
            is_asked = self.live.watched.stop_requested.is_set()
            if is_asked and task is not None:
                task.uncancel()
            return _Received(recorder.end_stopped(), answer, failure=facts, cancelled=None if is_asked else error)
        except Exception as error:
            facts = describe_error(error, client)
            outcome = recorder.end_failed(facts)
            if outcome.status is TurnStatus.COMPLETED:  # only what follows the end of the reply was lost
                return _Received(outcome, answer, _END)
            return _Received(outcome, answer, failure=facts)
        finally:
            self._is_receiving = False

    async def _read_whole(self, answer: ByteAnswer, client: Any) -> _Received:
        pieces, size = [], 0
        async for piece in answer.iterate():
            size += len(piece)
            if size > self._engine.max_reply_bytes:
                raise ReplyTooLarge(self._engine.max_reply_bytes)
            pieces.append(piece)
        data = b"".join(pieces)
        outcome = _read_outcome(self.live.recorder, answer.status, data, client)
        return _Received(outcome, answer, hide_key_in_body(data, client) if answer.status >= 400 else data)

    async def _pass_stream(self, answer: ByteAnswer, client: Any) -> _Received:
        """Pass on the pieces of a stream as they come, but what ends it."""
        self._begin(answer)
        reading = _StreamReading(self.live.recorder, self._engine.max_reply_bytes)
        held = b""
        async for piece in answer.iterate():
            reading.read(piece)
            received = held + piece if held else piece
            at = _find_end(received)
            held = received[at:]
            if at:
                await self._pass(received[:at])
            if reading.is_done:
                break
        return _Received(reading.make_outcome(client), answer, held)

    def _begin(self, answer: ByteAnswer) -> None:
        if not self._head.done():
            self._head.set_result(AnswerHead(answer.status, answer.headers, answer.is_stream))

    async def _pass(self, piece: bytes) -> None:
        if self._send is not None:
            await self._send(piece)
        elif piece:
            self._waiting.append(piece)

    def _fail(self, failure: CallFailed) -> None:
        """Tell the client that the call failed: in the place of an answer, or at the end of a stream."""
        if not self._head.done():
            self._head.set_exception(failure)
            self._head.exception()  # it is retrieved by the client, if there still is one
            return
        error = {"message": str(failure), "type": "server_error", "param": None, "code": "upstream_failed"}
        # The blank line ends an event that came in part.
        self._waiting.append(b"\n\ndata: " + json.dumps({"error": error}).encode() + b"\n\n")

    def _finish(self) -> None:
        self._is_over.set()
        if not self._head.done():
            self._head.set_exception(CallFailed({"message": "the service is ending"}))
            self._head.exception()


def _find_end(received: bytes) -> int:
    """Return where a line begins that may be the end of a stream (`data: [DONE]`), or where all ends.

    A line that is not complete yet counts if it may become one: clients that read by lines do not wait for more.
    """
    mark = received.rfind(_END_MARK)
    if mark >= 0 and received[:mark].rstrip(b" ").endswith(b"data:"):
        return received.rfind(b"data:", 0, mark)
    begin = max(received.rfind(b"\n"), received.rfind(b"\r")) + 1
    last = received[begin:]
    may_end = (last and (b"data: " + _END_MARK).startswith(last)) or (b"data:" + _END_MARK).startswith(last)
    return begin if may_end else len(received)


async def _drop(_: bytes) -> None:
    """Send nothing: the client has left."""


async def _use_up(answer: ByteAnswer) -> None:
    """Read what is left of an answer, so that its connection can be used again; close it if more is to come."""
    with suppress(Exception):  # the turn is over: an error here does not matter
        async with asyncio.timeout(_REST_SECONDS):
            async for _ in answer.iterate():
                pass
    with suppress(Exception):
        await answer.close()


class _StreamReading:
    """Reads the events of a stream beside passing on their bytes."""

    def __init__(self, recorder: CallRecorder, max_bytes: int) -> None:
        self.is_done = False
        self._recorder = recorder
        self._decoder = EventDecoder()
        self._template = ChunkTemplate()
        self._error: Exception | None = None
        self._max_bytes = max_bytes
        self._size = 0

    def read(self, piece: bytes) -> None:
        """Record what a piece of the stream says.

        Raises:
            ReplyTooLarge: the stream has too many bytes.
        """
        self._size += len(piece)
        if self._size > self._max_bytes:
            raise ReplyTooLarge(self._max_bytes)
        for data in self._decoder.decode(piece):
            text = self._template.read(data)
            if text is not None:
                self._recorder.add_text(text)
                continue
            try:
                chunk = parse_event(data)
            except (StreamError, ValueError, RecursionError) as error:  # the client gets the bytes all the same
                self._error = self._error or error
                continue
            if chunk is DONE:  # nobody reads further
                self._recorder.note_done()
                self.is_done = True
                return
            self._recorder.add_chunk(chunk)
            self._template.learn(data, chunk)

    def make_outcome(self, client: Any) -> TurnOutcome:
        """Return how the turn ended: with an event that cannot be read, only if the reply has no end."""
        if self._error is not None:
            return self._recorder.end_failed(describe_error(self._error, client))
        return self._recorder.end_exhausted(accept_done=False)


def _read_outcome(recorder: CallRecorder, status: int, data: bytes, client: Any) -> TurnOutcome:
    """Return how a turn ended with an answer that came whole."""
    try:
        body = parse_json_body(data)
        if status >= 400:
            return recorder.end_failed(hide_key(_describe_refusal(status, body), client))
        return recorder.end_answered(read_completion(body))
    except NotACompletion as error:
        facts = describe_error(error, client)
        return recorder.end_failed({**facts, "status": status} if status >= 400 else facts)


def _describe_refusal(status: int, body: Any) -> dict[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": str(error or "the model's server refused the request")}
    facts: dict[str, Any] = {"type": "APIStatusError", "message": str(error.get("message") or ""), "status": status}
    code = error.get("code")
    return {**facts, "code": code} if isinstance(code, (str, int)) else facts
