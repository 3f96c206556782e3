"""Test an append beside other callers: it comes before their turn or after it, and is never lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from convstore import ConversationBusy, Store
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import client, engine_of


def test_an_append_does_not_get_a_place_before_a_turn_that_began_meanwhile(
    postgres_url: str, chat_server: ChatServer
) -> None:
    go = threading.Event()
    chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
    application = create_engine(postgres_url)
    with (
        application.connect() as connection,
        client(chat_server) as caller,
        Store(postgres_url, client=caller, model="test-model") as store,
        Store(postgres_url, client=caller, model="test-model") as elsewhere,
    ):
        id = store.new().id
        assert elsewhere.stop(id) is False  # a store's first-use work is done
        stream = elsewhere.stream(id, "One")
        connection.execute(text("SELECT 1 FROM convstore_conversations FOR UPDATE"))
        looks = 0

        def between(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
            nonlocal looks
            looks += statement.startswith("SELECT")
            if looks == 3 and statement.startswith("SELECT"):
                # The append found the row locked and no turn running; a turn begins before it looks again.
                connection.rollback()
                assert next(stream) == "a"

        event.listen(engine_of(store), "before_cursor_execute", between)
        try:
            with pytest.raises(ConversationBusy):
                store.append(id, "Two", wait=0)
        finally:
            event.remove(engine_of(store), "before_cursor_execute", between)
        assert looks == 3
        go.set()
        assert list(stream) == ["b"]
        store.append(id, "Two")
        assert [message["content"] for message in store.history(id)] == ["One", "ab", "Two"]
        check_all(engine_of(store))
    application.dispose()
