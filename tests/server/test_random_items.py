"""Add, list, read and delete items at random, and compare with a list of what the conversation should have."""

from __future__ import annotations

import random
from typing import Any

import pytest

from convstore import Store
from convstore.conversations.item_changes import add_items, delete_item
from convstore.conversations.item_lookup import PlacedItem, find_item, list_items
from convstore.db.head_rows import read_head
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.identifiers import ConversationKey
from tests.contract.invariants import check_conversation

_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
_KINDS: list[dict[str, Any]] = [
    {"role": "user", "content": "text"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "reply", "annotations": []}]},
    _CALL,
    {"type": "function_call_output", "call_id": "c", "output": "result"},
    {"type": "reasoning", "summary": [], "encrypted_content": "xyz"},
    {"type": "web_search_call", "status": "completed", "action": {"query": "text"}},
]


class Model:
    """What a conversation should have: pairs of an id and an item, in order."""

    def __init__(self, store: Store, key: ConversationKey, items: list[tuple[str, Any]]) -> None:
        self.store = store
        self.key = key
        self.items = items

    def add(self, chosen: random.Random) -> None:
        items = [make_item(chosen) for _ in range(chosen.randint(1, 4))]
        added = self.write(add_items, items)
        assert [one.item for one in added] == items
        self.items += [(one.id, one.item) for one in added]

    def add_chat_message(self, chosen: random.Random) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        calls = {"tool_calls": [call] * chosen.randint(1, 3)} if chosen.random() < 0.7 else {}
        self.store.append(self.key.id, {"role": "assistant", "content": chosen.choice(["text", ""]), **calls})
        before = {id for id, _ in self.items}
        self.items += [(one.id, one.item) for one in self.read_all() if one.id not in before]

    def delete(self, chosen: random.Random) -> None:
        if not self.items:
            return
        place = chosen.randrange(len(self.items))
        assert self.write(delete_item, self.items[place][0]) is True
        assert self.write(delete_item, self.items[place][0]) is False
        del self.items[place]
        # What came in as chat messages is copied, and gets new ids.
        found = self.read_all()
        assert [one.item for one in found] == [item for _, item in self.items]
        kept = [one.id == id for one, (id, _) in zip(found, self.items, strict=True)]
        assert all(is_kept for is_kept, (id, _) in zip(kept, self.items, strict=True) if id.startswith("own-"))
        assert all(kept[:place])
        self.items = [(one.id, one.item) for one in found]

    def check(self, chosen: random.Random) -> None:
        limit, is_descending = chosen.randint(1, 7), chosen.random() < 0.5
        found: list[tuple[str, Any]] = []
        has_more = True
        while has_more:
            after = found[-1][0] if found else None
            page, has_more = self.read(list_items, after, limit, is_descending=is_descending)
            found += [(one.id, one.item) for one in page]
        assert found == (self.items[::-1] if is_descending else self.items)
        assert len({id for id, _ in found}) == len(found)
        if self.items:
            id, item = chosen.choice(self.items)
            one = self.read(find, id)
            assert one is not None
            assert (one.id, one.item) == (id, item)

    def fork(self, chosen: random.Random) -> Model:
        conversation = self.store.fork(self.key.id)
        key = ConversationKey(self.key.owner, conversation.id)
        model = Model(self.store, key, [])
        model.items = [(one.id, one.item) for one in model.read_all()]
        assert [item for _, item in model.items] == [item for _, item in self.items]
        return model

    def read_all(self) -> list[PlacedItem]:
        items, has_more = self.read(list_items, None, 10_000, is_descending=False)
        assert not has_more
        return items  # type: ignore[no-any-return]

    def read(self, unit: Any, *args: Any, **how: Any) -> Any:
        return self.store._engine.transactions.read(unit, self.key, *args, **how)

    def write(self, unit: Any, *args: Any) -> Any:
        return self.store._engine.transactions.write(unit, self.key, *args)


def find(work: UnitOfWork, key: ConversationKey, id: str) -> PlacedItem | None:
    head, lineage = read_head(work.connection, key)
    return find_item(work, lineage, head, id)


def make_item(chosen: random.Random) -> dict[str, Any]:
    item = {**chosen.choice(_KINDS), "number": chosen.randint(0, 9)}
    if chosen.random() < 0.5:
        item["id"] = f"own-{chosen.randint(0, 12)}"  # some come again
    return item


@pytest.mark.parametrize("seed", range(4))
def test_items_at_random_against_a_model(database_url: str, seed: int) -> None:
    chosen = random.Random(seed)
    with Store(database_url) as store:
        models = [Model(store, ConversationKey("", store.new().id), [])]
        for _ in range(60):
            model = chosen.choice(models)
            step = chosen.random()
            if step < 0.45:
                model.add(chosen)
            elif step < 0.6:
                model.add_chat_message(chosen)
            elif step < 0.95 or len(models) > 3:
                model.delete(chosen)
            else:
                models.append(model.fork(chosen))
            chosen.choice(models).check(chosen)
        for model in models:
            model.check(chosen)
            check_conversation(store, "", model.key.id)
