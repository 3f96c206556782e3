"""Test that `check_conversation` and `check_all` find each kind of damage."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import NoResultFound

from convstore import InvalidInput, Store, TurnFailed
from convstore.testing import ChatServer, Failure
from tests.contract.conftest import Backend
from tests.contract.invariants import check_conversation

UPDATE_MESSAGE = "UPDATE convstore_messages SET {} WHERE seq = {}"
UPDATE_CONVERSATION = "UPDATE convstore_conversations SET {}"
UPDATE_TURN = "UPDATE convstore_turns SET {} WHERE seq = {}"

DAMAGES = [
    UPDATE_MESSAGE.format("content = 'other'", 3),
    UPDATE_MESSAGE.format("content = 'other'", 2),  # off the path
    UPDATE_MESSAGE.format('extra = \'{"name": "x"}\'', 3),
    UPDATE_MESSAGE.format("position = 3", 3),
    UPDATE_MESSAGE.format("parent_seq = 2", 3),
    UPDATE_MESSAGE.format("parent_seq = 5", 3),
    UPDATE_MESSAGE.format("parent_seq = 0", 3),
    UPDATE_MESSAGE.format("context_seq = 0", 4),
    UPDATE_MESSAGE.format("turn_seq = 9", 3),
    UPDATE_MESSAGE.format("seq = 9", 4),
    "DELETE FROM convstore_messages WHERE seq = 1",
    "DELETE FROM convstore_messages WHERE seq = 2",
    "DELETE FROM convstore_messages WHERE seq = 3",
    "DELETE FROM convstore_messages WHERE seq = 4",
    UPDATE_CONVERSATION.format("head_seq = 3"),
    UPDATE_CONVERSATION.format("head_seq = 2, length = 2"),  # puts a failed message on the path
    UPDATE_CONVERSATION.format("length = 4"),
    UPDATE_CONVERSATION.format("next_seq = 4"),
    UPDATE_CONVERSATION.format("next_turn = 2"),
    UPDATE_CONVERSATION.format("lease_token = 'x'"),
    UPDATE_CONVERSATION.format("running_turn = 2"),
    UPDATE_TURN.format("status = 'running'", 2),
    UPDATE_TURN.format("status = 'failed'", 2),
    UPDATE_TURN.format("status = 'completed'", 1),
    UPDATE_TURN.format("output_seq = NULL", 2),
    UPDATE_TURN.format("output_seq = 2", 2),
    UPDATE_TURN.format("output_seq = 4, status = 'completed', error = NULL, finish_reason = 'stop'", 1),
    UPDATE_TURN.format("first_input_seq = NULL", 2),
    UPDATE_TURN.format("last_input_seq = 4", 2),
    UPDATE_TURN.format("finish_reason = NULL", 2),
    UPDATE_TURN.format("ended_at = NULL", 2),
    UPDATE_TURN.format("error = NULL", 1),
    UPDATE_TURN.format("base_seq = 9", 1),
    UPDATE_TURN.format("prompt_tokens = 99", 2),
    UPDATE_TURN.format("cached_tokens = 0", 2),
]


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("damage", DAMAGES)
def test_check_conversation_finds_every_damage(
    store: Store, backend: Backend, chat_server: ChatServer, damage: str
) -> None:
    id = store.new(system="s").id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "lost")
    store.say(id, "kept")
    check_conversation(store, "", id)
    backend.damage(damage)
    with pytest.raises(AssertionError):
        check_conversation(store, "", id)


FORK_DAMAGES = [
    "UPDATE convstore_messages SET back_32 = NULL WHERE seq = 40",
    "UPDATE convstore_messages SET back_32 = 31 WHERE seq = 40",
    "UPDATE convstore_messages SET back_1024 = 1 WHERE seq = 40",
    "UPDATE convstore_messages SET tokens = 0 WHERE seq = 40",
    "UPDATE convstore_messages SET context_seq = 0 WHERE seq = 42",
    "UPDATE convstore_messages SET content = 'other' WHERE seq = 3",  # a message of the shared past
    "DELETE FROM convstore_messages WHERE seq = 3",
    "DELETE FROM convstore_messages WHERE seq = 38 AND conversation_id = 'fork'",  # the first message of the fork
    "UPDATE convstore_messages SET conversation_id = 'fork' WHERE seq = 37",  # the last shared message
    "UPDATE convstore_conversations SET lineage = NULL WHERE id = 'fork'",
    """UPDATE convstore_conversations SET lineage = '[["origin", 36, 1]]' WHERE id = 'fork'""",
    """UPDATE convstore_conversations SET lineage = '[["origin", 37, 0]]' WHERE id = 'fork'""",
    """UPDATE convstore_conversations SET lineage = '[["origin", 37, 9]]' WHERE id = 'fork'""",
    """UPDATE convstore_conversations SET lineage = '[["nobody", 37, 1]]' WHERE id = 'fork'""",
    "UPDATE convstore_conversations SET pins = '[[3, 4]]' WHERE id = 'fork'",
    "UPDATE convstore_conversations SET pins = '[[99, 4]]' WHERE id = 'fork'",
    "UPDATE convstore_conversations SET pins = '[[3, 3], [3, 3]]' WHERE id = 'fork'",
    "UPDATE convstore_conversations SET redo = '[99]' WHERE id = 'fork'",
    "UPDATE convstore_conversations SET summary_turn = 2 WHERE id = 'fork'",  # a message of a reply
    "UPDATE convstore_conversations SET \"window\" = '{\"last\": -1}' WHERE id = 'fork'",
    "UPDATE convstore_summaries SET up_to_position = 3",
    "UPDATE convstore_summaries SET up_to_seq = 3",
    "UPDATE convstore_summaries SET previous_turn = 7",
    "DELETE FROM convstore_summaries",
    "UPDATE convstore_turns SET purpose = NULL WHERE seq = 1",
    "UPDATE convstore_turns SET purpose = 'other' WHERE seq = 1",
    "UPDATE convstore_turns SET output_seq = 2 WHERE seq = 1",
    r"""UPDATE convstore_turns SET "window" = replace("window", '"history"\:', '"history"\:1') WHERE seq = 3""",
    r"""UPDATE convstore_turns SET "window" = replace("window", '"pinned"\:[3', '"pinned"\:[41') WHERE seq = 3""",
    "UPDATE convstore_turns SET requested_model = NULL WHERE seq = 3",
    # The head is at a message without a reply, and no `checkout` moved it there.
    "UPDATE convstore_conversations SET head_seq = 40, length = 40, redo = NULL WHERE id = 'fork'",
]


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("damage", FORK_DAMAGES)
def test_check_all_finds_every_damage_in_a_fork(
    store: Store, backend: Backend, chat_server: ChatServer, damage: str
) -> None:
    talk = [{"role": role, "content": f"{role} {number}"} for number in range(18) for role in ("user", "assistant")]
    store.new(id="origin", messages=[{"role": "system", "content": "s"}, *talk, {"role": "user", "content": "later"}])
    store.compact("origin", keep_last=5)
    store.pin("origin", 3)
    store.fork("origin", at=37, new_id="fork")
    store.say("fork", "one")  # 38, 39
    store.say("fork", "two", last=0, system="more")  # 40 to 42
    store.undo("fork")
    store.redo("fork")
    store.undo("fork")
    for id in ("origin", "fork"):
        check_conversation(store, "", id)
    check_conversation(store, "", "fork", checked_out=[("fork", 41)])
    backend.damage(damage)
    with pytest.raises((AssertionError, InvalidInput, NoResultFound)):
        backend.check()


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
def test_the_check_accepts_a_checkout_of_the_input_of_a_failed_turn(
    store: Store, backend: Backend, chat_server: ChatServer
) -> None:
    id = store.new().id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "lost")
    store.checkout(id, 1)
    store.append(id, "and more")
    with pytest.raises(AssertionError, match="without a reply"):
        check_conversation(store, "", id)
    backend.checked_out.add((id, 1))
    check_conversation(store, "", id, checked_out=backend.checked_out)
    check_conversation(store, "", store.fork(id).id, checked_out=backend.checked_out)
