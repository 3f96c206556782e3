"""Test that what the service asks about items and completions costs the same however many there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, create_engine, insert, text

from convstore import Store
from convstore.conversations.item_changes import add_items
from convstore.conversations.item_lookup import find_item, list_items
from convstore.conversations.stored_completions import get_completion, list_page
from convstore.db.head_rows import read_head
from convstore.db.tables import client_requests, turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.identifiers import ConversationKey
from convstore.values.stored_completion import CompletionFilter
from tests.contract.growth import Meter

FEW, MANY = 100, 3_000


def make_item(number: int) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": f"text {number}", "id": f"id-{number}"}


def get_one(work: UnitOfWork, key: ConversationKey, id: str) -> object:
    head, lineage = read_head(work.connection, key)
    return find_item(work, lineage, head, id)


def measure(engine: Engine, meter: Meter, calls: list[tuple[str, Any]]) -> dict[str, int]:
    """Return the steps of each call, or the rows that it read."""
    if engine.dialect.name != "sqlite":
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    found = {}
    for name, call in calls:
        call()  # the plans are made
        with meter.measure() as cost:
            call()
        found[name] = cost.steps
    return found


def list_grown(costs: dict[int, dict[str, int]]) -> dict[str, tuple[int, int]]:
    """Return the calls of which the cost grows, with the costs."""
    pairs = {name: (few, costs[MANY][name]) for name, few in costs[FEW].items()}
    return {name: (few, many) for name, (few, many) in pairs.items() if many > 4 * few}


def test_items_cost_the_same_in_a_long_conversation(database_url: str) -> None:
    engine = create_engine(database_url)
    meter = Meter(engine)
    with Store(engine=engine) as store:
        transactions, costs = store._engine.transactions, {}
        for count in (FEW, MANY):
            key = ConversationKey("", store.new().id)
            for begin in range(0, count, 100):
                batch = [make_item(number) for number in range(begin, begin + 100)]
                transactions.write(add_items, key, batch)
            costs[count] = measure(
                engine,
                meter,
                [
                    ("one", lambda key=key: transactions.read(get_one, key, "id-7")),
                    ("page", lambda key=key: transactions.read(list_items, key, "id-7", 10, is_descending=False)),
                    ("last page", lambda key=key: transactions.read(list_items, key, None, 10, is_descending=True)),
                    ("add", lambda key=key: transactions.write(add_items, key, [make_item(1)])),
                ],
            )
    engine.dispose()
    assert list_grown(costs) == {}


def test_completions_cost_the_same_among_many(database_url: str) -> None:
    engine = create_engine(database_url)
    meter = Meter(engine)
    with Store(engine=engine) as store:
        transactions, costs = store._engine.transactions, {}
        for count in (FEW, MANY):
            owner = f"owner-{count}"
            id = store.for_owner(owner).new().id
            now = datetime.now(UTC)
            key = {"owner": owner, "conversation_id": id}
            of_turn = {"status": "completed", "base_seq": 0, "request": "{}", "response_fields": None}
            with engine.begin() as connection:
                connection.execute(
                    insert(turns),
                    [{**key, **of_turn, "seq": number, "started_at": now} for number in range(1, count + 1)],
                )
                connection.execute(
                    insert(client_requests),
                    [
                        {
                            **key,
                            "turn_seq": number,
                            "sender": b"",
                            "asked_seq": 0,
                            "response_id": f"id-{number}",
                            "created_at": now + timedelta(seconds=number),
                        }
                        for number in range(1, count + 1)
                    ],
                )
            first = CompletionFilter(limit=10)
            after = CompletionFilter(limit=10, after="id-50", is_descending=True)
            costs[count] = measure(
                engine,
                meter,
                [
                    ("one", lambda owner=owner: transactions.read(get_completion, owner, "id-7")),
                    ("first page", lambda owner=owner, page=first: transactions.read(list_page, owner, page)),
                    ("later page", lambda owner=owner, page=after: transactions.read(list_page, owner, page)),
                ],
            )
    engine.dispose()
    assert list_grown(costs) == {}
