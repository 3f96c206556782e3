"""Make long conversations in seconds, and count the database's work for a call."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, event, insert, text
from sqlalchemy.engine import CursorResult

from convstore import Store
from convstore.db import conversation_writes, summary_rows
from convstore.db.message_rows import STRIDES
from convstore.db.tables import turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.codec import digest
from convstore.messages.token_estimate import estimate_message
from convstore.values.identifiers import ConversationKey, Position, Seq
from convstore.values.results import Summary

WINDOW_TOKENS = 4_000
"""`max_context` of the measured calls, in tokens."""
SYSTEM_MESSAGES, PINS = 6, 8
MAX_CACHED_MESSAGES = 100_000
"""Longest conversation of which the rows stay in memory for the next test. It takes long to make them."""
_COLUMNS = (
    *("owner", "conversation_id", "seq", "parent_seq", "position", "role", "content", "tokens", "context_seq"),
    *(f"back_{stride}" for stride in STRIDES),
    *("digest", "created_at"),
)


@dataclass
class Cost:
    """What a call sent to a database, and what the database returned."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0
    rows: int = 0
    """Rows that the database returned."""
    steps: int = 0
    """SQLite: hundreds of instructions of its virtual machine. PostgreSQL: rows that it read."""


class Meter:
    """Count the statements, commits and rows of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cost: Cost | None = None
        event.listen(engine, "before_cursor_execute", self._record_statement)
        event.listen(engine, "after_cursor_execute", self._count_rows)
        event.listen(engine, "commit", self._count_commit)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", self._watch_sqlite)

    def _record_statement(self, _c: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._cost is not None and not statement.startswith("BEGIN"):
            self._cost.statements.append(statement)

    def _count_rows(self, _c: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if self._cost is not None and statement.lstrip("(").startswith(("SELECT", "WITH")) and cursor.rowcount > 0:
            self._cost.rows += cursor.rowcount

    def _count_commit(self, _: Connection) -> None:
        if self._cost is not None:
            self._cost.commits += 1

    def _watch_sqlite(self, connection: sqlite3.Connection, _: object) -> None:
        connection.row_factory = self._count_sqlite_row
        connection.set_progress_handler(self._count_sqlite_step, 100)

    def _count_sqlite_row(self, _cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._cost is not None:
            self._cost.rows += 1
        return row

    def _count_sqlite_step(self) -> int:
        if self._cost is not None:
            self._cost.steps += 1
        return 0

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        cost = Cost()
        looked = self._count_rows_read()
        self._cost = cost
        yield cost
        self._cost = None
        cost.steps += self._count_rows_read() - looked

    def _count_rows_read(self) -> int:
        """Return how many rows PostgreSQL has read from our tables so far."""
        if self._engine.dialect.name == "sqlite":
            return 0
        with self._engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
        with self._engine.connect() as connection, connection.begin():
            found: CursorResult[Any] = connection.execute(
                text(
                    "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables "
                    "WHERE relname LIKE 'convstore_%'"
                )
            )
            return int(found.scalar_one())


def filled(store: Store, engine: Engine, count: int, *, summarised: bool = False) -> str:
    """Make a conversation of `count` messages, and return its id.

    A user's message and a reply alternate. Some messages are system messages, and some are pinned. The rows are
    inserted without the store, so a million messages take only seconds.

    Args:
        summarised: whether a summary replaces all but the last 40.
    """
    id = store.new(model="test-model").id
    pins = [[place, place] for place in range(2, count, max(1, count // PINS))][:PINS]
    rows = _get_cached_rows(count) if count <= MAX_CACHED_MESSAGES else _make_message_rows(range(count))
    with engine.connect() as connection, connection.begin():
        _insert_rows(connection, id, rows)
        connection.execute(
            text(
                "UPDATE convstore_conversations SET head_seq = :count, length = :count, next_seq = :next, pins = :pins "
                "WHERE id = :id"
            ),
            {"count": count, "next": count + 1, "pins": json.dumps(pins), "id": id},
        )
    if summarised:
        store._engine.transactions.write(_summarise, id, count - 40)
    return id


def make_tree(store: Store, engine: Engine, parents: Sequence[int]) -> str:
    """Make a conversation with a tree of messages, and return its id. The last message is its head.

    Args:
        parents: the `seq` of the parent of message 1, 2, 3 …; 0: the message begins a path.
    """
    id = store.new(model="test-model").id
    rows = list(_make_message_rows(parents))
    values = {"head": len(rows), "length": rows[-1][2], "next": len(rows) + 1, "id": id}
    with engine.connect() as connection, connection.begin():
        _insert_rows(connection, id, rows)
        connection.execute(
            text(
                "UPDATE convstore_conversations SET head_seq = :head, length = :length, next_seq = :next WHERE id = :id"
            ),
            values,
        )
    return id


def _insert_rows(connection: Connection, id: str, rows: Iterable[tuple[Any, ...]]) -> None:
    raw: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO convstore_messages ({', '.join(_COLUMNS)}) VALUES ({marks})"
        raw.executemany(statement, (("", id, *row, "2026-01-01 00:00:00.000000") for row in rows))
        return
    with raw.cursor() as cursor, cursor.copy(f"COPY convstore_messages ({', '.join(_COLUMNS)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(("", id, *row, "2026-01-01T00:00:00Z"))


@lru_cache(3)
def _get_cached_rows(count: int) -> list[tuple[Any, ...]]:
    return list(_make_message_rows(range(count)))


def _make_message_rows(parents: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    system = max(1, len(parents) // SYSTEM_MESSAGES)
    made: dict[int, tuple[Any, ...]] = {}
    for seq, parent in enumerate(parents, 1):
        _, _, position, role, _, _, context, *back, parent_digest = made.get(parent, _BEFORE_THE_FIRST)
        if role == "system":
            context = parent
        strides = zip(STRIDES, back, strict=True)
        back = [parent if position and position % stride == 0 else known for stride, known in strides]
        role = "system" if seq % system == 1 else "user" if position % 2 else "assistant"
        message = {"role": role, "content": f"message {seq} " + "of some words " * 6}
        tokens, own = estimate_message(message), digest(parent_digest, message)
        row = (seq, parent, position + 1, role, message["content"], tokens, context, *back, own)
        if isinstance(parents, range):  # no later message needs it
            made.pop(seq - 100, None)
        made[seq] = row
        yield row


_BEFORE_THE_FIRST = (0, 0, 0, "", "", 0, 0, *(None for _ in STRIDES), b"")


def _summarise(work: UnitOfWork, id: str, up_to: int) -> None:
    now, key = work.now, ConversationKey("", id)
    turn = conversation_writes.take_turn_number(work.connection, key)
    work.connection.execute(
        insert(turns).values(
            owner="",
            conversation_id=id,
            seq=turn,
            status="completed",
            purpose="summary",
            base_seq=up_to,
            request="{}",
            finish_reason="stop",
            started_at=now,
            ended_at=now,
        )
    )
    summary = Summary(turn, Seq(up_to), Position(up_to), "So far.", 10, None, now)
    summary_rows.insert_summary(work.connection, key, summary)


Step = tuple[str, Callable[[], object]]


def list_steps(store: Store, id: str) -> list[Step]:
    """Return each operation on a conversation with its name, in an order that works."""
    conversation = store.get(id)
    head, length = conversation.head_seq, conversation.length
    deep = length // 3 // 2 * 2  # a user's message
    fork = store.fork(id, at=deep + 1).id
    window: dict[str, Any] = {"max_context": WINDOW_TOKENS}
    edited = length - length % 2 - 2
    if store.at(id, edited).message["role"] != "user":
        edited -= 2
    return [
        ("say, history=False", lambda: store.say(id, "hi", history=False)),
        ("say, last=4", lambda: store.say(id, "hi", last=4)),
        ("say, max_context", lambda: store.say(id, "hi", **window)),
        ("retry, max_context", lambda: store.retry(id)),
        ("append", lambda: store.append(id, "and")),
        ("complete, max_context", lambda: store.complete(id, **window)),
        ("undo", lambda: store.undo(id)),
        ("redo", lambda: store.redo(id)),
        ("checkout", lambda: store.checkout(id, deep)),
        ("checkout of the end", lambda: store.checkout(id, head)),
        ("fork", lambda: store.fork(id)),
        ("fork, at a third", lambda: store.fork(id, at=deep)),
        ("say in a fork, max_context", lambda: store.say(fork, "hi", **window)),
        ("edit, max_context", lambda: store.edit(id, edited, "hi", **window)),
        ("checkout after it", lambda: store.checkout(id, head)),
        ("edit at a third, max_context", lambda: store.edit(id, deep, "hi", **window)),
        ("checkout again", lambda: store.checkout(id, head)),
        ("pin", lambda: store.pin(id, deep)),
        ("unpin", lambda: store.unpin(id, deep)),
        ("pending_calls", lambda: store.pending_calls(id)),
        ("summary", lambda: store.summary(id)),
        ("at a third", lambda: store.at(id, deep)),
        ("a page of 50 messages", lambda: store.messages(id, limit=50)),
        ("list", store.list),
        ("get", lambda: store.get(id)),
    ]


def costs(store: Store, meter: Meter, id: str) -> dict[str, Cost]:
    """Return the cost of the second run of each step.

    The first run is not counted, because it compiles the statements.
    """
    for _, call in list_steps(store, id):
        call()
    found = {}
    for name, call in list_steps(store, id):
        with meter.measure() as cost:
            call()
        found[name] = cost
    return found
