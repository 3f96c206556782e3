"""Test that the cost of a call does not grow with the conversation.

The cost is the number of statements, commits, rows and steps of the database. `bench/growth.py` prints the same counts
for a million messages.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from convstore import Store
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import Backend
from tests.contract.growth import PINS, Cost, Meter, costs, filled
from tests.contract.invariants import check_conversation

SHORT, MIDDLE, LONG = 100, 2_000, 100_000
MAX_COSTS = {
    "say, history=False": (11, 2),
    "say, last=4": (15, 2),
    "say, max_context": (18, 2),
    "say in a fork, max_context": (17, 2),
    "retry, max_context": (17, 2),
    "complete, max_context": (17, 2),
    "edit, max_context": (23, 2),
    "edit at a third, max_context": (23, 2),
    "append": (6, 1),
    "undo": (4, 1),
    "redo": (5, 1),
    "checkout": (4, 1),
    "checkout of the end": (4, 1),
    "checkout after it": (4, 1),
    "checkout again": (4, 1),
    "fork": (5, 1),
    "fork, at a third": (6, 1),
    "pin": (5, 1),
    "unpin": (5, 1),
    "pending_calls": (2, 1),
    "summary": (3, 1),
    "at a third": (4, 1),
    "a page of 50 messages": (3, 1),
    "list": (1, 1),
    "get": (1, 1),
}
"""Statements and commits that docs/guarantees.md promises. A call that only reads also ends a transaction.

On PostgreSQL a turn, which is a call with two commits, takes one more statement.
"""
MAX_WINDOW_ROWS = 250
"""More messages than fit in a window of 4,000 tokens. Each has about 25 tokens."""


@pytest.fixture
def postgres_url(postgres_fresh_url: str) -> str:
    """Return the URL of a new database.

    Many rows and new statistics would change the query plans of other tests.
    """
    return postgres_fresh_url


@pytest.mark.parametrize("summarised", [False, True])
@pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)
def test_a_call_costs_no_more_in_a_long_conversation(
    backend: Backend, chat_server: ChatServer, summarised: bool
) -> None:
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    engine = create_engine(
        backend.url, pool_size=1, max_overflow=0
    )  # one connection, so that its counters count everything
    meter = Meter(engine)
    try:
        with Store(engine=engine, client=backend.client, model="test-model") as store:
            ids = [filled(store, engine, count, summarised=summarised) for count in (SHORT, MIDDLE, LONG)]
            for analysed in (False, True):  # with statistics, a database chooses other query plans
                if analysed:
                    with engine.connect() as connection, connection.begin():
                        connection.execute(text("ANALYZE"))
                short, middle, long = (costs(store, meter, id) for id in ids)
                assert set(long) == set(MAX_COSTS)
                for name in MAX_COSTS:
                    _check_costs(name, short[name], middle[name], long[name], is_postgres=backend.is_postgres)
            for id in ids[:2]:
                check_conversation(engine, "", id)
            backend.is_intact = False  # the check of a hundred thousand messages would take seconds
            with meter.measure() as cost:
                store.messages(ids[2], limit=None)
            assert cost.rows > LONG  # the meter counts at all
            assert cost.steps > 1000
    finally:
        engine.dispose()


@pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)
def test_a_purge_costs_as_much_for_each_message_in_a_long_conversation(backend: Backend) -> None:
    engine = create_engine(backend.url, pool_size=1, max_overflow=0)
    meter = Meter(engine)
    counts = (1_000, 8_000)
    steps = []
    try:
        with Store(engine=engine) as store:
            for count in counts:
                messages = [{"role": "user", "content": f"word{number}"} for number in range(count)]
                id = store.new(messages=messages).id
                with meter.measure() as cost:
                    assert store.purge(id, finish=False).messages == count
                steps.append(cost.steps)
    finally:
        engine.dispose()
    assert steps[1] < 1.5 * counts[1] / counts[0] * steps[0]


def test_the_guarantees_page_states_these_counts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    say, complete, retry, edit = (MAX_COSTS[f"{name}, max_context"][0] for name in ("say", "complete", "retry", "edit"))
    undo, redo, checkout = (MAX_COSTS[name][0] for name in ("undo", "redo", "checkout"))
    for row in (
        f"| `say` with a window (`last` or `max_context`), pins and a summary | {say} at most | 2 |",
        f"| `complete` with all of these | {complete} at most | 2 |",
        f"| `retry` with all of these | {retry} at most | 2 |",
        f"| `edit` with all of these | {edit} at most | 2 |",
        f"| `undo`, `redo`, `checkout` | {undo}, {redo}, {checkout} | 1 |",
        f"| `fork`, at any position | {MAX_COSTS['fork, at a third'][0]} at most | 1 |",
        f"| `pin`, `unpin` | {MAX_COSTS['pin'][0]} | 1 |",
    ):
        assert row in page


def _check_costs(name: str, short: Cost, middle: Cost, long: Cost, *, is_postgres: bool) -> None:
    statements, commits = MAX_COSTS[name]
    statements += int(is_postgres and commits == 2)
    for cost in (short, middle, long):
        assert len(cost.statements) <= statements, (name, cost.statements)
        assert cost.commits == commits, name
        assert cost.rows <= MAX_WINDOW_ROWS, (name, cost.rows)
        # The steps are rows in PostgreSQL and hundreds of instructions in SQLite. The constants allow for one
        # more page of a small table.
        most = 4 * cost.rows + 150 * (PINS + 1) + 200 if is_postgres else 5 * cost.rows + 50 * (PINS + 1)
        assert cost.steps <= most, (name, cost.rows, cost.steps)
    assert long.statements == middle.statements, name
    assert long.rows <= middle.rows + 16, (name, middle.rows, long.rows)
