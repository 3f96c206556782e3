"""Following a reply that any process is streaming."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from convstore.db.delta_rows import read_deltas
from convstore.db.lease_rows import read_holder
from convstore.db.transactions import Transactions
from convstore.db.turn_rows import find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.takeover import is_dead
from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.values.identifiers import ConversationKey, TurnNumber
from convstore.values.results import TurnStatus
from convstore.values.steps import DatabaseWork, Pause, Piece, Steps

FOLLOW_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a follower has read a reply."""

    turn: TurnNumber
    number: int = 0
    """The last delta that was read."""
    characters: int = 0
    """Characters of text that were read."""
    is_over: bool = False


def follow(transactions: Transactions, key: ConversationKey) -> Steps[None]:
    """Yield the text of the reply that is being streamed, until it ends; nothing if no turn runs."""
    progress: _Progress | None = None
    while True:
        progress, text = yield DatabaseWork(partial(transactions.read, _read_added, key, progress))
        if text:
            yield Piece(text)
        if progress is None or progress.is_over:
            return
        yield Pause(FOLLOW_SECONDS)


def _read_added(work: UnitOfWork, key: ConversationKey, progress: _Progress | None) -> tuple[_Progress | None, str]:
    """Return how far the reply has come and the text that it added; None if no turn runs."""
    # Read before the turn: a turn that runs, and did not hold its conversation before, has no process.
    holder = read_holder(work.connection, key, work.now)
    if progress is None:
        if holder is None:
            return None, ""
        progress = _Progress(holder.turn)
    turn = find_turn(work.connection, key, progress.turn)
    if turn is None or turn.status is not TurnStatus.RUNNING:
        rest = turn.text[progress.characters :] if turn is not None else ""
        return _Progress(progress.turn, progress.number, progress.characters + len(rest), is_over=True), rest
    added = ChunkAccumulator()
    number, text = progress.number, ""
    for number, delta in read_deltas(work.connection, key, progress.turn, progress.number):  # noqa: B007
        text += added.add(delta)
    is_over = holder is None or is_dead(work, holder)
    return _Progress(progress.turn, number, progress.characters + len(text), is_over), text
