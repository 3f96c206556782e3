"""The check itself finds what it is for."""

from __future__ import annotations

import pytest

from convstore import Store, TurnFailed
from convstore.testing import ChatServer, Failure
from tests.contract.conftest import Backend
from tests.contract.invariants import check_conversation

MESSAGES = "UPDATE convstore_messages SET {} WHERE seq = {}"
CONVERSATION = "UPDATE convstore_conversations SET {}"
TURNS = "UPDATE convstore_turns SET {} WHERE seq = {}"

DAMAGE = [
    MESSAGES.format("content = 'other'", 3),
    MESSAGES.format("content = 'other'", 2),  # on no path
    MESSAGES.format('extra = \'{"name": "x"}\'', 3),
    MESSAGES.format("position = 3", 3),
    MESSAGES.format("parent_seq = 2", 3),
    MESSAGES.format("parent_seq = 5", 3),
    MESSAGES.format("parent_seq = 0", 3),
    MESSAGES.format("context_seq = 0", 4),
    MESSAGES.format("turn_seq = 9", 3),
    MESSAGES.format("seq = 9", 4),
    "DELETE FROM convstore_messages WHERE seq = 1",
    "DELETE FROM convstore_messages WHERE seq = 2",
    "DELETE FROM convstore_messages WHERE seq = 3",
    "DELETE FROM convstore_messages WHERE seq = 4",
    CONVERSATION.format("head_seq = 3"),
    CONVERSATION.format("head_seq = 2, length = 2"),  # replays what failed
    CONVERSATION.format("length = 4"),
    CONVERSATION.format("next_seq = 4"),
    CONVERSATION.format("next_turn = 2"),
    CONVERSATION.format("lease_token = 'x'"),
    CONVERSATION.format("running_turn = 2"),
    TURNS.format("status = 'running'", 2),
    TURNS.format("status = 'failed'", 2),
    TURNS.format("status = 'completed'", 1),
    TURNS.format("output_seq = NULL", 2),
    TURNS.format("output_seq = 2", 2),
    TURNS.format("output_seq = 4, status = 'completed', error = NULL, finish_reason = 'stop'", 1),
    TURNS.format("first_input_seq = NULL", 2),
    TURNS.format("last_input_seq = 4", 2),
    TURNS.format("finish_reason = NULL", 2),
    TURNS.format("ended_at = NULL", 2),
    TURNS.format("error = NULL", 1),
    TURNS.format("base_seq = 9", 1),
    TURNS.format("prompt_tokens = 99", 2),
    TURNS.format("cached_tokens = 0", 2),
]


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_found(store: Store, backend: Backend, chat_server: ChatServer, damage: str) -> None:
    id = store.new(system="s").id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "lost")
    store.say(id, "kept")
    check_conversation(store, "", id)
    backend.damage(damage)
    with pytest.raises(AssertionError):
        check_conversation(store, "", id)
