"""What comes of a call: how an answer becomes an ending, and an ending a turn or an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convstore.context.window import KEEP_LAST
from convstore.db.turn_writes import Ending
from convstore.errors import LeaseLost, ReplyInterrupted, TurnFailed
from convstore.messages.chunk_accumulator import Accumulator
from convstore.messages.codec import is_replayable, to_plain
from convstore.messages.completion import Completion
from convstore.values.results import Turn, TurnStatus

NO_REASON = "the reply ended without its finish_reason"


@dataclass(slots=True)
class Answer:
    """What has come of a call so far, and when."""

    _began: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _stream: Accumulator = field(default_factory=Accumulator)
    _unwritten: Accumulator = field(default_factory=Accumulator)
    _attempts: list[dict[str, Any]] = field(default_factory=list)
    _window: tuple[dict[str, Any], int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, chunk: object) -> str:
        """Take a chunk of a stream and return the text that it adds."""
        plain = to_plain(chunk)
        with self._lock:
            text = self._stream.add(plain)
            self._unwritten.add(plain)
        if self._first is None and self._stream.started:
            self._first = time.monotonic()
        return text

    def take_unwritten(self) -> dict[str, Any] | None:
        """Return, as one chunk, what has come since this was last asked; None: nothing. For another thread."""
        with self._lock:
            if not self._unwritten.started:
                return None
            taken, self._unwritten = self._unwritten, Accumulator()
        return taken.fragment()

    def again(self, error: dict[str, Any], waited: float) -> None:
        """The call failed before anything was generated, and is made once more after `waited` seconds."""
        self._attempts.append({"error": error, "waited": round(waited, 3)})

    def narrowed(self, facts: dict[str, Any], tokens: int) -> None:
        """The call is made once more with less of the history: the facts and the estimated tokens of that window."""
        self._window = facts, tokens

    @property
    def attempts(self) -> int:
        """How many calls failed and were repeated."""
        return len(self._attempts)

    def whole(self, completion: Completion) -> Ending:
        """The ending of a call that was answered."""
        if completion.finish_reason is None:
            return self._unfinished(completion)
        return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)

    def exhausted(self) -> Ending:
        """The ending of a stream that has no more chunks: whole only if the reply says so itself."""
        return self.whole(self._stream.completion())

    def failed(self, error: dict[str, Any]) -> Ending:
        """The ending of a call that failed, wherever it was: what came is kept with the turn, off the path."""
        completion = self._stream.completion()
        if completion.finish_reason is not None:  # only what follows the end was lost
            return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)
        if _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        return self._ending(TurnStatus.FAILED, None, moves_head=False, error=error)

    def stopped(self) -> Ending:
        """The ending of a call that the user stopped: the text that came stays on the path, as in any chat.

        Not so a tool call: cut in the middle, it must never be replayed as if it were whole.
        """
        completion = self._stream.completion()
        if completion.finish_reason is not None:
            return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)
        error = {"type": "Stopped", "message": "stopped by the user"}
        if not _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, None, moves_head=False, error=error)
        moves_head = is_replayable(completion.messages[0])
        return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=moves_head, error=error)

    def _unfinished(self, completion: Completion) -> Ending:
        error = {"type": "NoFinishReason", "message": NO_REASON}
        if _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        error = {"type": "EmptyReply", "message": "the provider closed the reply before anything came"}
        return self._ending(TurnStatus.FAILED, None, moves_head=False, error=error)

    def _ending(
        self,
        status: TurnStatus,
        completion: Completion | None,
        *,
        moves_head: bool,
        error: dict[str, Any] | None = None,
    ) -> Ending:
        return Ending(
            status=status,
            completion=completion,
            moves_head=moves_head,
            error=error,
            latency=time.monotonic() - self._began,
            time_to_first_token=self._first - self._began if self._first is not None else None,
            window=self._window,
            attempts=tuple(self._attempts),
        )


def _says_something(completion: Completion) -> bool:
    return any(value for message in completion.messages for key, value in message.items() if key != "role")


def settle(turn: Turn, held: bool, *, stopped: bool = False) -> Turn:
    """Return a turn that ended well, or that its caller stopped; raise what any other ending means.

    Raises:
        LeaseLost: another caller had taken the conversation.
        ReplyInterrupted: the reply broke off.
        TurnFailed: there is no reply.
    """
    where = f"conversation {turn.conversation_id}, turn {turn.seq}"
    if not held:
        raise LeaseLost(
            f"{where}: another caller took the conversation before this reply came; it is stored beside the path",
            turn,
        )
    if turn.status is TurnStatus.COMPLETED or stopped:
        return turn
    problem = _problem(turn.error or {})
    if turn.status is TurnStatus.INTERRUPTED:
        raise ReplyInterrupted(
            f"{where}: the reply broke off ({problem}); what came is kept with the turn and will not be replayed",
            turn,
            turn.message,
        )
    raise TurnFailed(f"{where}: {problem}; the message is kept, not answered, and will not be replayed", turn)


def _problem(error: Mapping[str, Any]) -> str:
    status = f"{error['status']} " if "status" in error else ""
    return f"{status}{error.get('type', 'error')}: {error.get('message', '')}".rstrip(": ")


def compaction_due(turn: Turn) -> tuple[int, int] | None:
    """Return how many turns to keep, and the threshold, after a turn that is to be followed by a compaction."""
    options = (turn.window or {}).get("options", {})
    threshold = options.get("compact_at")
    if not isinstance(threshold, int):
        return None
    reported = turn.usage.prompt_tokens if turn.usage is not None else None
    sent = reported if reported is not None else (turn.window or {}).get("tokens", 0)
    return (options.get("keep_last", KEEP_LAST), threshold) if sent >= threshold else None
