"""An append between two turns of others: it stands before the second, or behind it, and is never lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event

from convstore import ConversationBusy, Store
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import client, engine_of


def test_an_append_does_not_slip_in_beneath_a_turn_that_began_while_it_looked(
    postgres_url: str, chat_server: ChatServer
) -> None:
    go = threading.Event()
    chat_server.script(*(Reply(pieces=["a", "b"], hold=go, hold_after=1) for _ in range(2)))
    with (
        client(chat_server) as caller,
        Store(postgres_url, client=caller, model="test-model") as store,
        Store(postgres_url, client=caller, model="test-model") as elsewhere,
    ):
        id = store.new().id
        first, second = elsewhere.stream(id, "One"), elsewhere.stream(id, "Two")
        next(first)
        looks = 0

        def between(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
            nonlocal looks
            if not statement.startswith("SELECT"):
                return
            looks += 1
            if looks == 2:  # it has seen the first turn, and now asks who that is
                first.close()
            elif looks == 3:  # nobody; so it looks again
                next(second)

        event.listen(engine_of(store), "before_cursor_execute", between)
        try:
            with pytest.raises(ConversationBusy):
                store.append(id, "Three", wait=0)
        finally:
            event.remove(engine_of(store), "before_cursor_execute", between)
        assert looks == 3
        go.set()
        list(second)
        store.append(id, "Three")
        assert [message["content"] for message in store.history(id)] == ["One", "a", "Two", "ab", "Three"]
        check_all(engine_of(store))
