"""Test `kill -9` at statements and commits of operations on the tree: each happens as a whole or not at all.

Each point has its own conversation, a copy of a prepared one. A child that lives reports the points, and how many
commits come before each. From this the test knows what must be durable there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, Table, insert, select

from convstore import ConversationNotFound, Store, tool_result
from convstore.context.summary_plan import INSTRUCTION, SummaryOptions
from convstore.context.window import make_summary_messages
from convstore.db.tables import conversations, messages, summaries, turns
from convstore.messages.request_form import to_request
from convstore.testing import ChatServer, Reply
from convstore.testing.responses import JSONObject, text_of
from convstore.turns import compaction
from tests.contract.invariants import check_all, check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.crashing import Points, run_child
from tests.processes import Channel, Child, Zygote

AT_ONCE = 1.0  # seconds: the longest wait of the next caller
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
SUMMARY_TOKENS = 40  # tokens that one summary may cover: so that a compaction needs two


def answer(body: JSONObject) -> Reply:
    first, last = body["messages"][0], body["messages"][-1]
    if first["content"] == INSTRUCTION:
        return Reply(f"Summary of {len(text_of(last))} characters")
    if text_of(last) == "Look it up":
        return Reply(message={"role": "assistant", "content": None, "tool_calls": [CALL]}, finish_reason="tool_calls")
    return Reply(f"Answer to {text_of(last)}")


# --- preparation and operations ---


def plain(store: Store, id: str) -> None:
    store.new(id=id, system="Answer in three words.")
    for number in range(3):
        store.say(id, f"Question {number}")


def undone(store: Store, id: str) -> None:
    plain(store, id)
    store.undo(id, 2)


def called(store: Store, id: str) -> None:
    plain(store, id)
    store.say(id, "Look it up")
    store.append(id, tool_result("call_1", "Found"))


def summarised(store: Store, id: str) -> None:
    plain(store, id)
    store.compact(id, keep_last=1)


def deleted(store: Store, id: str) -> None:
    plain(store, id)
    store.delete(id)


@dataclass(frozen=True)
class Operation:
    """An operation, the conversation that it needs, and its number of commits."""

    prepare: Callable[[Store, str], None]
    perform: Callable[[Store, str], object]
    commits: int = 1


OPERATIONS = {
    "undo": Operation(plain, lambda store, id: store.undo(id, 2)),
    "redo": Operation(undone, lambda store, id: store.redo(id)),
    "checkout": Operation(plain, lambda store, id: store.checkout(id, 3)),
    "fork": Operation(summarised, lambda store, id: store.fork(id, at=5, new_id=f"{id}-fork", name=f"{id}-name")),
    "pin": Operation(plain, lambda store, id: store.pin(id, 2)),
    "delete": Operation(plain, lambda store, id: store.delete(id)),
    "restore": Operation(deleted, lambda store, id: store.restore(id)),
    "edit": Operation(plain, lambda store, id: store.edit(id, 4, "Otherwise"), commits=2),
    "complete": Operation(called, lambda store, id: store.complete(id), commits=2),
    "retry": Operation(plain, lambda store, id: store.retry(id), commits=2),
    "compact": Operation(plain, lambda store, id: store.compact(id, keep_last=1), commits=2),
    "drop": Operation(summarised, lambda store, id: store.drop_summary(id)),
}


# --- run in the child ---


def perform(channel: Channel, *, url: str, base_url: str, id: str, operation: str, kill_at: int) -> None:
    compaction.SummaryOptions = partial(SummaryOptions, max_tokens=SUMMARY_TOKENS)  # type: ignore[attr-defined, assignment]
    store = open_store(url, base_url, mark=id)
    store.list()
    points = Points(channel, kill_at)
    points.step = operation
    OPERATIONS[operation].perform(store, id)
    channel.send(["done", operation])


# --- run in the test ---


@dataclass(frozen=True)
class Shape:
    """Everything of a conversation except its id and its times."""

    path: tuple[tuple[int, str], ...] = ()
    """`seq` and content of each message."""
    pins: tuple[int, ...] = ()
    statuses: tuple[str, ...] = ()
    summary: tuple[int, str] | None = None
    """The last position that it covers, and its text."""
    fork: tuple[Any, ...] | None = None


def shape_of(store: Store, id: str) -> Shape | None:
    """Return the shape of a conversation; None if it does not exist."""
    try:
        conversation = store.get(id)
    except ConversationNotFound:
        return None
    if conversation.id != id:  # a fork, which begins like the conversation
        return None
    summary = store.summary(id)
    fork = shape_of(store, f"{id}-fork") if not id.endswith("-fork") else None
    return Shape(
        path=tuple((record.seq, repr(record.message)) for record in store.messages(id)),
        pins=conversation.pins,
        statuses=tuple(turn.status.value for turn in store.turns(id)),
        summary=(summary.up_to_position, summary.text) if summary is not None else None,
        fork=(fork.path, fork.summary) if fork is not None else None,
    )


def after_commits(commits: int, operation: str, before: Shape | None, whole: Shape | None) -> Shape | None:
    """Return the expected shape after a number of commits of an operation."""
    if commits == 0 or before is None or whole is None:
        return before if commits == 0 else whole
    if commits == OPERATIONS[operation].commits:
        return whole
    if operation == "compact":  # the first one of two summaries
        assert whole.summary is not None
        return replace(before, statuses=(*before.statuses, "completed"), summary=(3, "Summary of 110 characters"))
    return replace(before, statuses=(*before.statuses, "running"))


def request_for(store: Store, id: str, question: str) -> list[JSONObject]:
    """Return the expected request: the new message after every message of the path that no summary replaces."""
    summary = store.summary(id)
    done = summary.up_to_position if summary is not None else 0
    stand_in = make_summary_messages(summary.text) if summary is not None else []
    path = store.messages(id)
    system = [record.message for record in path if record.message["role"] == "system" and record.position <= done]
    rest = [to_request(record.message) for record in path if record.position > done]
    return [*system, *stand_in, *rest, {"role": "user", "content": question}]


def copied(engine: Engine, prepared: str, id: str) -> str:
    """Copy a conversation to another id."""
    with engine.begin() as connection:
        for table in (conversations, messages, turns, summaries):
            assert isinstance(table, Table)
            key = "id" if table is conversations else "conversation_id"
            rows = connection.execute(select(table).where(table.c[key] == prepared)).mappings().all()
            if rows:
                connection.execute(insert(table), [{**row, key: id} for row in rows])
    return id


@pytest.fixture
def store(database_url: str, chat_server: ChatServer, zygote: Zygote) -> Iterator[Store]:
    chat_server.otherwise = answer
    with open_store(database_url, chat_server.url) as store:
        yield store


def some(points: list[list[Any]]) -> list[int]:
    """Choose the points beside every commit, and every third of the others."""
    commits = [number for number, (_, _, _, what, _) in enumerate(points) if what == "COMMIT"]
    near = {near for number in commits for near in (number - 1, number, number + 1)}
    return sorted(near.union(range(0, len(points), 3)).intersection(range(len(points))))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_after_a_kill_at_any_point_an_operation_on_the_tree_has_happened_or_not(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer, operation: str
) -> None:
    engine = engine_of(store)
    wait = 0 if engine.dialect.name == "sqlite" else AT_ONCE
    OPERATIONS[operation].prepare(store, "prepared")
    before = shape_of(store, "prepared")

    def child(id: str, kill_at: int) -> Child:
        return zygote.start(
            perform, url=database_url, base_url=chat_server.url, id=id, operation=operation, kill_at=kill_at
        )

    copied(engine, "prepared", "unharmed")
    done, points = run_child(child("unharmed", -1), killed=False)
    assert done == [operation]
    whole = shape_of(store, "unharmed")
    assert whole != before
    durable, commits = [], 0
    for _, _, when, what, writing in points:
        commits += (when, what, writing) == ("after", "COMMIT", True)
        durable.append(commits)
    assert commits == OPERATIONS[operation].commits
    assert len(points) >= 6

    def at_point(kill_at: int) -> None:
        id = copied(engine, "prepared", f"killed-at-{kill_at}")
        acknowledged, _ = run_child(child(id, kill_at), killed=True)
        assert acknowledged == []
        expected = after_commits(durable[kill_at], operation, before, whole)
        assert shape_of(store, id) == expected
        for one in (id, *([f"{id}-fork"] if expected is not None and expected.fork is not None else ())):
            check_conversation(engine, "", one, running=True)
            if expected is None:
                store.restore(id)
            asked = request_for(store, one, "And now?")
            began = time.monotonic()
            turn = store.say(one, "And now?", wait=wait)
            assert time.monotonic() - began < 2 * AT_ONCE
            assert turn.text == "Answer to And now?"
            assert [request.body["messages"] for request in chat_server.requests].count(asked) >= 1
            check_conversation(engine, "", one)
        # And the killed operation can be done again.
        if operation in ("edit", "pin"):
            OPERATIONS[operation].perform(store, id)

    def with_note(kill_at: int) -> None:
        try:
            at_point(kill_at)
        except BaseException as error:
            error.add_note(f"{operation}, killed at point {kill_at}: {points[kill_at]}")
            raise

    chosen = some(points) if OPERATIONS[operation].commits > 1 else range(len(points))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(with_note, chosen))
    check_all(engine)
    print(f"\n{operation}: killed at {len(chosen)} points of {len(points)}")
