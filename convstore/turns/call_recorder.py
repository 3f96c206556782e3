"""Record a model call and its times, and decide how the turn ended."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.messages.completion import Completion
from convstore.messages.lenient_json import to_lenient_plain
from convstore.messages.message import is_replayable
from convstore.turns.model_answer import note_oddities
from convstore.values.results import TurnStatus
from convstore.values.turn_outcome import TurnOutcome
from convstore.values.window_report import WindowReport

NO_FINISH_REASON = "the reply ended without its finish_reason"


@dataclass(slots=True)
class CallRecorder:
    """What a call has received so far, and when."""

    _began: float = field(default_factory=time.monotonic)
    _first_token_at: float | None = None
    _received: ChunkAccumulator = field(default_factory=ChunkAccumulator)
    _unwritten: ChunkAccumulator = field(default_factory=ChunkAccumulator)
    _attempts: list[dict[str, Any]] = field(default_factory=list)
    _window: tuple[WindowReport, int] | None = None
    _is_done: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_chunk(self, chunk: object) -> str:
        """Record a chunk of a stream, and return the text that it adds."""
        plain = to_lenient_plain(chunk)
        if not isinstance(plain, dict):
            return ""
        with self._lock:
            text = self._received.add_plain(plain)
            self._unwritten.add_plain(plain)
        if self._first_token_at is None and self._received.has_started:
            self._first_token_at = time.monotonic()
        return text

    def add_text(self, text: str) -> None:
        """Record a chunk that differs from an earlier one in its text alone."""
        with self._lock:
            self._received.add_text(text)
            self._unwritten.add_text(text)
        if self._first_token_at is None and text:
            self._first_token_at = time.monotonic()

    def note_done(self) -> None:
        """Record that the provider said that the stream is whole."""
        self._is_done = True

    def take_unwritten(self) -> dict[str, Any] | None:
        """Return, as one chunk, what has come since the last call; None: nothing. For another thread."""
        with self._lock:
            if not self._unwritten.has_started:
                return None
            taken, self._unwritten = self._unwritten, ChunkAccumulator()
        return taken.to_chunk()

    def add_failed_attempt(self, error: dict[str, Any], seconds: float) -> None:
        """Record that the call failed before anything was generated and is repeated after some seconds."""
        self._attempts.append({"error": error, "waited": round(seconds, 3)})

    def replace_window(self, report: WindowReport, tokens: int) -> None:
        """Record that the call is repeated with a smaller window.

        Args:
            tokens: the estimated tokens of that window.
        """
        self._window = report, tokens

    @property
    def attempts(self) -> int:
        """Number of calls that failed and were repeated."""
        return len(self._attempts)

    def end_answered(self, completion: Completion) -> TurnOutcome:
        """Return the outcome of a call that was answered."""
        if completion.error is not None:
            return self._end_interrupted(completion, completion.error)
        if completion.finish_reason is not None:
            return self._make_outcome(TurnStatus.COMPLETED, completion, moves_head=True)
        if _says_something(completion):
            error = {"type": "NoFinishReason", "message": NO_FINISH_REASON}
            return self._make_outcome(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        error = {"type": "EmptyReply", "message": "the provider closed the reply before anything came"}
        return self._make_outcome(TurnStatus.FAILED, None, moves_head=False, error=error)

    def end_exhausted(self, *, accept_done: bool) -> TurnOutcome:
        """Return the outcome of a stream without more chunks: completed only if the reply itself says so.

        Args:
            accept_done: `[DONE]` says so too.
        """
        completion = self._received.to_completion()
        is_whole = accept_done and self._is_done and completion.error is None and _says_something(completion)
        if completion.finish_reason is None and is_whole:
            outcome = self._make_outcome(TurnStatus.COMPLETED, completion, moves_head=True)
            return replace(outcome, notes=("without a finish_reason: ended with [DONE]", *outcome.notes))
        return self.end_answered(completion)

    def _end_interrupted(self, completion: Completion, error: dict[str, Any]) -> TurnOutcome:
        if _says_something(completion):
            return self._make_outcome(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        return self._make_outcome(TurnStatus.FAILED, None, moves_head=False, error=error)

    def end_failed(self, error: dict[str, Any]) -> TurnOutcome:
        """Return the outcome of a call that failed: a partial reply is kept with the turn, off the path."""
        completion = self._received.to_completion()
        if completion.finish_reason is not None and completion.error is None:  # only what follows the end was lost
            return self._make_outcome(TurnStatus.COMPLETED, completion, moves_head=True)
        return self._end_interrupted(completion, completion.error or error)

    def end_stopped(self) -> TurnOutcome:
        """Return the outcome of a call that the user stopped: a partial text stays on the path, as in chat apps.

        A partial tool call does not: it must never be sent as if it were complete.
        """
        completion = self._received.to_completion()
        if completion.finish_reason is not None and completion.error is None:
            return self._make_outcome(TurnStatus.COMPLETED, completion, moves_head=True)
        error = {"type": "Stopped", "message": "stopped by the user"}
        if not _says_something(completion):
            return self._make_outcome(TurnStatus.INTERRUPTED, None, moves_head=False, error=error)
        moves_head = is_replayable(completion.messages[0])
        return self._make_outcome(TurnStatus.INTERRUPTED, completion, moves_head=moves_head, error=error)

    def _make_outcome(
        self,
        status: TurnStatus,
        completion: Completion | None,
        *,
        moves_head: bool,
        error: dict[str, Any] | None = None,
    ) -> TurnOutcome:
        return TurnOutcome(
            status=status,
            completion=completion,
            moves_head=moves_head,
            error=error,
            latency=time.monotonic() - self._began,
            time_to_first_token=self._first_token_at - self._began if self._first_token_at is not None else None,
            window=self._window,
            attempts=tuple(self._attempts),
            notes=note_oddities(completion) if completion is not None else (),
        )


def _says_something(completion: Completion) -> bool:
    return any(value for message in completion.messages for key, value in message.items() if key != "role")
