"""Which conversation a client's list of messages goes on in, and what of it is stored."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from convstore import Store
from convstore.leases.claims import claim_conversation
from convstore.messages.matching_form import list_path
from convstore.testing import ChatServer, Failure, Reply
from convstore.values.results import TurnStatus
from tests.contract.invariants import check_all
from tests.server.recording import Answered, Recording, recording


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


@pytest.fixture
def service(database_url: str, chat_server: ChatServer) -> Iterator[Recording]:
    with recording(database_url, chat_server.url) as opened:
        yield opened


def talk(service: Recording, texts: list[str], begin: list[dict[str, Any]] | None = None, **how: Any) -> Any:
    """Say each text after the other with the whole list, and return the list with the replies, and the last answer."""
    messages, answer = list(begin or []), None
    for said in texts:
        messages.append(user(said))
        answer = service.ask(messages, **how)
        messages.append(answer.message)
    return messages, answer


def count_messages(service: Recording) -> int:
    async def count() -> int:
        # A fork's tree has what it shares, too.
        found = [(one.id, record.seq) for one in await service.store.list(limit=1000) for record in await read(one.id)]
        return len(found)

    async def read(id: str) -> list[Any]:
        records = await service.store.tree(id)
        turns = {turn.seq for turn in await service.store.turns(id, limit=None) if turn.conversation_id == id}
        return [record for record in records if record.turn in turns]

    return service.run(count())


def list_ids(service: Recording) -> set[str]:
    async def read() -> set[str]:
        return {one.id for one in await service.store.list(limit=1000)}

    return service.run(read())


def test_a_growing_list_stores_each_message_once(service: Recording) -> None:
    messages, answer = talk(service, ["a", "b", "c"], [system("S")])
    assert service.read_path(answer.conversation) == messages
    assert count_messages(service) == 7
    assert list_ids(service) == {answer.conversation}


def test_a_first_question_asked_again_is_a_new_conversation(service: Recording) -> None:
    first, second = service.ask([user("a")]), service.ask([user("a")])
    assert first.conversation != second.conversation
    assert count_messages(service) == 4


def test_an_edited_question_is_a_branch(service: Recording) -> None:
    messages, answer = talk(service, ["a", "b"])
    edited = [*messages[:2], user("b2")]
    branch = service.ask(edited)
    assert branch.conversation == answer.conversation
    assert service.read_path(answer.conversation) == [*edited, branch.message]
    assert count_messages(service) == 6


def test_the_same_question_again_gets_a_second_reply(service: Recording, chat_server: ChatServer) -> None:
    messages, answer = talk(service, ["a", "b"])
    chat_server.script(Reply("another"))
    again = service.ask(messages[:-1])
    assert again.conversation == answer.conversation
    assert service.read_path(answer.conversation) == [*messages[:-1], model("another")]
    assert count_messages(service) == 5
    # The first reply is still known: who goes on from it gets a branch there.
    further = service.ask([*messages, user("c")])
    assert service.read_path(answer.conversation) == [*messages, user("c"), further.message]


def test_a_question_that_failed_is_not_stored_twice(service: Recording, chat_server: ChatServer) -> None:
    messages, answer = talk(service, ["a"])
    chat_server.script(Failure(500), Reply("b"))
    refused = service.ask([*messages, user("q")])
    assert refused.status == 500
    assert service.ask([*messages, user("q")]).conversation == answer.conversation
    assert count_messages(service) == 4
    turns = service.run(service.store.turns(answer.conversation))
    assert [turn.status for turn in turns] == [TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.COMPLETED]


def test_a_list_with_replies_that_nobody_recorded_is_a_new_conversation(service: Recording) -> None:
    examples = [user("1+1"), model("2"), user("2+2"), model("4")]
    first = service.ask([*examples, user("3+3")])
    second = service.ask([*examples, user("3+3")])
    assert first.conversation != second.conversation
    assert service.read_path(first.conversation) == [*examples, user("3+3"), first.message]


def test_a_list_goes_on_for_its_own_key_and_user_alone(service: Recording) -> None:
    messages, answer = talk(service, ["a"], key="k1", user="u1")
    messages.append(user("b"))
    strangers = [
        service.ask(messages, key="k2", user="u1"),
        service.ask(messages, key="k1", user="u2"),
        service.ask(messages, key="k1"),
        service.ask(messages, key="k1", safety_identifier="u3", user="u1"),
    ]
    assert answer.conversation not in {one.conversation for one in strangers}
    assert len({one.conversation for one in strangers}) == 4
    assert service.ask(messages, key="k1", user="u1").conversation == answer.conversation


def test_another_owner_has_other_conversations(service: Recording) -> None:
    messages, answer = talk(service, ["a"])
    other = service.ask([*messages, user("b")], owner="bob")
    assert other.conversation != answer.conversation
    assert len(service.read_path(answer.conversation)) == 2


def test_of_equal_paths_the_one_used_last_goes_on(service: Recording, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("ok")
    first, second = service.ask([user("a")]), service.ask([user("a")])
    messages = [user("a"), model("ok"), user("b")]
    assert service.ask(messages).conversation == second.conversation
    assert first.conversation != second.conversation


def test_a_changed_system_message_is_stored_once_before_the_question(service: Recording) -> None:
    messages, answer = talk(service, ["a"], [system("one")])
    changed = [system("two"), *messages[1:], user("b")]
    reply = service.ask(changed)
    assert reply.conversation == answer.conversation
    expected = [*messages, system("two"), user("b"), reply.message]
    assert service.read_path(answer.conversation) == expected
    further = service.ask([*changed, reply.message, user("c")])
    assert service.read_path(answer.conversation) == [*expected, user("c"), further.message]


def test_a_question_with_another_system_message_is_not_the_same_question(service: Recording) -> None:
    messages, answer = talk(service, ["a", "b"], [system("one")])
    other = service.ask([system("two"), *messages[1:-1]])
    assert other.conversation == answer.conversation
    assert service.read_path(answer.conversation)[3:] == [system("two"), user("b"), other.message]


def test_texts_and_arguments_may_come_back_in_another_form(service: Recording, chat_server: ChatServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}
    chat_server.script(Reply(None, message={"content": None, "tool_calls": [call]}, finish_reason="tool_calls"))
    first = service.ask([user("a")])
    sent_call = {"function": {"arguments": '{"b":2,"a":1}', "name": "f"}, "id": "c1", "type": "function"}
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "7"}]}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "", "tool_calls": [sent_call]},
        result,
    ]
    second = service.ask(messages)
    assert second.conversation == first.conversation
    path = service.read_path(first.conversation)
    assert [message["role"] for message in path] == ["user", "assistant", "tool", "assistant"]
    assert path[0] == user("a")  # as it came first
    assert path[2] == result


def test_what_else_a_client_sends_of_known_messages_is_kept_with_the_turn(service: Recording) -> None:
    messages, answer = talk(service, ["a", "b"], [system("S")])
    messages[1] = {**messages[1], "name": "ann", "refusal": None}
    messages[4] = {**messages[4], "reasoning_content": "because"}
    service.ask([*messages, user("c")])
    turns = service.run(service.store.turns(answer.conversation))
    assert turns[0].notes == turns[1].notes == ()
    assert turns[2].notes == (
        'message 2 was sent with {"name":"ann"}',
        'message 5 was sent with {"reasoning_content":"because"}',
    )


def test_a_list_without_its_beginning_goes_on_at_the_one_head_that_it_fits(service: Recording) -> None:
    messages, answer = talk(service, ["a", "b", "c"])
    cut = [*messages[2:], user("d")]
    reply = service.ask(cut)
    assert reply.conversation == answer.conversation
    assert service.read_path(answer.conversation) == [*messages, user("d"), reply.message]
    # And so does the next one, cut further.
    cut = [*cut[2:], reply.message, user("e")]
    assert service.ask(cut).conversation == answer.conversation
    assert len(service.read_path(answer.conversation)) == 10


@pytest.mark.parametrize("what", ["one exchange", "no user", "not the head", "two candidates", "another key", "off"])
def test_a_list_without_its_beginning_is_else_a_new_conversation(
    service: Recording, chat_server: ChatServer, what: str
) -> None:
    chat_server.otherwise = lambda _: Reply("ok")
    texts = ["a", "b", "c"]
    messages, answer = talk(service, texts)
    known = {answer.conversation}
    cut = [*messages[2:], user("d")]
    key, matches_cut = "k", True
    if what == "one exchange":
        cut = cut[2:]
    elif what == "no user":
        cut = [*messages[1:], user("d")]
    elif what == "not the head":
        talk(service, ["e"], messages)
    elif what == "two candidates":
        known.add(talk(service, ["x", "b", "c"])[1].conversation)
    elif what == "another key":
        key = "k2"
    else:
        matches_cut = False
    reply = service.ask(cut, key=key, matches_cut=matches_cut)
    assert reply.conversation not in known
    assert service.read_path(reply.conversation) == [*cut, reply.message]


def test_a_matched_list_goes_on_in_a_fork_while_a_turn_runs_there(service: Recording, chat_server: ChatServer) -> None:
    messages, answer = talk(service, ["a"])
    hold = threading.Event()
    chat_server.script(Reply("slow", hold=hold, hold_after=0), Reply("fast"))

    async def both() -> tuple[Answered, Answered]:
        slow = asyncio.create_task(service.ask_async([*messages, user("b")]))
        while len(chat_server.requests) < 2:
            await asyncio.sleep(0.01)
        fast = await service.ask_async([*messages, user("b")])
        hold.set()
        return await slow, fast

    slow, fast = service.run(both())
    assert slow.conversation == answer.conversation != fast.conversation
    assert service.read_path(slow.conversation) == [*messages, user("b"), model("slow")]
    assert service.read_path(fast.conversation) == [*messages, user("b"), model("fast")]
    assert count_messages(service) == 2 + 2 + 2  # nothing is copied


def test_a_named_conversation_is_made_under_its_id_and_goes_on(service: Recording) -> None:
    named: dict[str, Any] = {"headers": {"X-Conversation-Id": "my-chat"}}
    messages, answer = talk(service, ["a", "b"], **named)
    assert answer.conversation == "my-chat"
    assert service.read_path("my-chat") == messages
    # Another key of the same owner may name it, too.
    reply = service.ask([*messages, user("c")], key="k2", **named)
    assert service.read_path("my-chat") == [*messages, user("c"), reply.message]


def test_a_named_conversation_that_the_command_line_began_goes_on(service: Recording, chat_server: ChatServer) -> None:
    id = service.run(service.store.new(system="S")).id
    chat_server.script(Reply("one"), Reply("two"))
    service.run(service.store.say(id, "a", model="m"))
    messages = [system("S"), user("a"), model("one"), user("b")]
    service.ask(messages, metadata={"conversation_id": id})
    assert service.read_path(id) == [*messages, model("two")]


def test_a_list_that_names_a_conversation_gets_no_history_that_it_did_not_send(
    service: Recording, chat_server: ChatServer
) -> None:
    named: dict[str, Any] = {"headers": {"X-Conversation-Id": "my-chat"}}
    talk(service, ["a"], **named)
    service.ask([user("alone")], **named)
    assert chat_server.requests[-1].body["messages"] == [user("alone")]
    assert service.read_path("my-chat")[0] == user("alone")


def test_a_request_that_is_sent_again_with_its_key_gets_the_same_reply(
    service: Recording, chat_server: ChatServer
) -> None:
    again: dict[str, Any] = {"headers": {"Idempotency-Key": "once"}}
    first, second = service.ask([user("a")], **again), service.ask([user("a")], **again)
    assert (first.conversation, first.turn, first.message) == (second.conversation, second.turn, second.message)
    assert len(chat_server.requests) == 1


def test_a_repetition_of_the_official_client_gets_the_reply_once(service: Recording, chat_server: ChatServer) -> None:
    first = service.ask([user("a")])
    counted: dict[str, Any] = {"headers": {"x-stainless-retry-count": "1"}}
    assert service.ask([user("a")], **counted).conversation == first.conversation
    assert service.ask([user("a")], **counted).conversation != first.conversation  # each is taken once
    assert service.ask([user("a")], key="k2", **counted).conversation != first.conversation
    assert len(chat_server.requests) == 3


def test_an_idempotency_key_is_free_again_if_its_process_died(
    service: Recording, chat_server: ChatServer, database_url: str
) -> None:
    again: dict[str, Any] = {"headers": {"Idempotency-Key": "once"}}
    first = service.ask([user("a")], **again)
    engine = create_engine(database_url)
    with engine.begin() as connection:  # as a process leaves it that was killed
        connection.execute(text("UPDATE convstore_turns SET status = 'running'"))
    engine.dispose()
    second = service.ask([user("a")], **again)
    assert second.conversation != first.conversation
    assert len(chat_server.requests) == 2


def test_an_idempotency_key_that_two_use_at_one_time_is_used_once(service: Recording, chat_server: ChatServer) -> None:
    async def both() -> list[Answered]:
        asks = [service.ask_async([user("a")], headers={"Idempotency-Key": "once"}) for _ in range(4)]
        return await asyncio.gather(*asks)

    answers = service.run(both())
    assert len({(one.conversation, one.turn) for one in answers}) == 1
    assert len(chat_server.requests) == 1


def test_a_key_that_was_used_in_a_deleted_conversation_stays_used(service: Recording) -> None:
    again: dict[str, Any] = {"headers": {"Idempotency-Key": "once"}}
    first = service.ask([user("a")], **again)
    service.run(service.store.delete(first.conversation))
    assert service.ask([user("a")], **again).conversation == first.conversation


def test_a_conversation_that_was_deleted_or_purged_is_left(service: Recording) -> None:
    messages, answer = talk(service, ["a"])
    service.run(service.store.delete(answer.conversation))
    second = service.ask([*messages, user("b")])
    assert second.conversation != answer.conversation
    assert service.read_path(second.conversation) == [*messages, user("b"), second.message]
    service.run(service.store.purge(second.conversation))
    third = service.ask([*messages, user("b"), second.message, user("c")])
    assert len(service.read_path(third.conversation)) == 6


def test_a_fork_of_a_purged_conversation_goes_on(service: Recording, chat_server: ChatServer) -> None:
    messages, answer = talk(service, ["a", "b"])
    fork = service.run(service.store.fork(answer.conversation)).id
    service.run(service.store.purge(answer.conversation))
    further = service.ask([*messages, user("c")])
    assert further.conversation == fork
    assert service.read_path(fork) == [*messages, user("c"), further.message]


def test_a_damaged_message_does_not_keep_a_client_from_asking(service: Recording, database_url: str) -> None:
    messages, answer = talk(service, ["a"])
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE convstore_messages SET extra = 'x' WHERE role = 'assistant'"))
    engine.dispose()
    assert service.ask([*messages, user("b")]).conversation != answer.conversation


def test_what_was_redacted_is_not_stored_again_from_a_client_that_still_has_it(
    service: Recording, chat_server: ChatServer, database_url: str
) -> None:
    chat_server.otherwise = lambda _: Reply("noted")
    messages, answer = talk(service, ["my password is hunter2", "b", "c"])
    service.run(service.store.redact(answer.conversation, 1))
    reply = service.ask([*messages, user("d")])
    assert reply.conversation == answer.conversation
    path = service.read_path(answer.conversation)
    assert len(path) == 8
    assert "hunter2" not in str(path)
    # No digest over the old text is stored again, either: the next list is found by what follows it.
    further = service.ask([*messages, user("d"), reply.message, user("e")])
    assert further.conversation == answer.conversation
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT asked_digest, reply_digest, body_digest FROM convstore_client_requests"))
        assert {tuple(row) for row in rows} == {(None, None, None)}
    engine.dispose()


@pytest.mark.parametrize(("position", "content"), [(4, "SECRET"), (5, "SECRET reply"), (1, "SECRET system")])
def test_a_redacted_message_in_the_middle_is_not_stored_again(
    service: Recording, chat_server: ChatServer, database_url: str, position: int, content: str
) -> None:
    texts = iter(["r1", "SECRET reply" if position == 5 else "r2", "r3", "r4", "r5"])
    chat_server.otherwise = lambda _: Reply(next(texts))
    begin = [system("SECRET system" if position == 1 else "S")]
    messages, answer = talk(service, ["a", "SECRET" if position == 4 else "b", "c"], begin)
    assert content in str(messages[position - 1])
    service.run(service.store.redact(answer.conversation, position))
    for said in ("d", "e"):
        reply = service.ask([*messages, user(said)])
        messages += [user(said), reply.message]
        assert reply.conversation == answer.conversation
    path = service.read_path(answer.conversation)
    assert len(path) == 11
    assert "SECRET" not in str(path)
    assert count_messages(service) == 11
    digests = {list_path(messages[:count]).digest for count in range(1, len(messages) + 1)} - {b""}
    if position == 1:
        digests = set()  # the chain is not made of system messages
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT asked_digest, reply_digest FROM convstore_client_requests"))
        stored = {bytes(value) for row in rows for value in row if value is not None}
    engine.dispose()
    allowed = {list_path(messages[:count]).digest for count in range(1, position)}
    assert not (stored & digests) - allowed


@pytest.mark.parametrize("hook", ["redact", "delete"])
def test_a_conversation_that_changes_between_the_match_and_the_claim_is_matched_again(
    service: Recording, database_url: str, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    messages, answer = talk(service, ["a", "b"])
    claim, other, has_changed = claim_conversation, Store(database_url), False

    def change_first(work: Any, key: Any, *rest: Any, **named: Any) -> Any:
        nonlocal has_changed
        if not has_changed and not database_url.startswith("sqlite"):  # which has one writer at a time
            has_changed = True
            if hook == "redact":
                other.redact(answer.conversation, 1)
            else:
                other.delete(answer.conversation)
        return claim(work, key, *rest, **named)

    monkeypatch.setattr("convstore.turns.recorded_start.claim_conversation", change_first)
    reply = service.ask([*messages, user("c")])
    other.close()
    assert reply.status == 200
    assert len(service.read_path(reply.conversation)) == 6
    engine = create_engine(database_url)
    check_all(engine, checked_out=set())
    engine.dispose()


@dataclass
class Client:
    """A program that keeps its conversations itself."""

    key: str
    user: str | None
    lists: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass
class Known:
    """What should be stored of a reply."""

    conversation: str
    full: tuple[str, ...]
    """What the path to it says, without system messages."""
    context: tuple[str, ...]
    order: int


def simplify(messages: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(f"{one['role']}:{one['content']}" for one in messages if one["role"] != "system")


@pytest.mark.parametrize("seed", range(4))
def test_many_clients_at_random_against_a_model(service: Recording, chat_server: ChatServer, seed: int) -> None:
    """40 clients with edits, regenerations, cut lists, equal beginnings, examples, shared keys, system messages."""
    chance = random.Random(seed)
    number = 0

    def reply(_: dict[str, Any]) -> Reply:
        nonlocal number
        number += 1
        return Reply("ok" if chance.random() < 0.2 else f"reply {number}")

    chat_server.otherwise = reply
    clients = [Client(f"k{place % 7}", [None, "u1", "u2"][place % 3]) for place in range(40)]
    known: dict[tuple[str, str | None], list[Known]] = {}
    stored = 0
    senders: dict[str, tuple[str, str | None]] = {}
    for order in range(300):
        client = chance.choice(clients)
        sender = (client.key, client.user)
        messages = make_list(chance, client)
        context = tuple(one["content"] for one in messages if one["role"] == "system")
        said = simplify(messages)
        found = find_expected(known.setdefault(sender, []), said)
        body = {} if client.user is None else {"user": client.user}
        answer = service.ask(messages, key=client.key, **body)
        where = f"seed {seed}, request {order}: {sender} {messages}"
        assert senders.setdefault(answer.conversation, sender) == sender, where
        if found is None:
            full, new = said, len(messages)
        else:
            assert answer.conversation == found.conversation, where
            rest = said[len(list_history(said) if is_cut(found, said) else found.full) :]
            full = (*found.full, *rest)
            is_asked = (full, context) in {
                (one.full[:-1], one.context) for one in known[sender] if one.conversation == found.conversation
            }
            new = 0 if is_asked else len(rest) + (len(context) if context != found.context else 0)
        stored += new + 1
        full = (*full, f"assistant:{answer.message['content']}")
        known[sender].append(Known(answer.conversation, full, context, order))
        assert simplify(service.read_path(answer.conversation)) == full, where
        client.lists.append([*messages, answer.message])
    assert count_messages(service) == stored


def make_list(chance: random.Random, client: Client) -> list[dict[str, Any]]:
    """Return what a client sends next."""
    if not client.lists or chance.random() < 0.15:
        examples = [user("1+1"), model("2")] if chance.random() < 0.3 else []
        begin = [system("be kind")] if chance.random() < 0.5 else []
        return [*begin, *examples, user(chance.choice(["hi", "hello", "what is new?"]))]
    messages = list(chance.choice(client.lists[-3:]))
    action = chance.random()
    if action < 0.15:
        return messages[:-1]  # once more
    if action < 0.3:
        places = [place for place, one in enumerate(messages) if one["role"] == "user"]
        return [*messages[: chance.choice(places)], user(f"edited {chance.random()}")]
    if action < 0.4:
        rest = [one for one in messages if one["role"] != "system"]
        return [system(f"be {chance.choice(['brief', 'kind', 'rude'])}"), *rest, user("and now?")]
    if action < 0.5:
        heads = [one for one in messages if one["role"] == "system"]
        rest = [one for one in messages if one["role"] != "system"]
        if len(rest) > 4:
            return [*heads, *rest[2:], user(f"after a cut {chance.random()}")]
    return [*messages, user(chance.choice(["go on", "why?", f"and {chance.random()}"]))]


def is_cut(found: Known, said: tuple[str, ...]) -> bool:
    return said[: len(found.full)] != found.full


def list_history(said: tuple[str, ...]) -> tuple[str, ...]:
    return said[: max((place for place, one in enumerate(said) if one.startswith("assistant:")), default=-1) + 1]


def find_expected(known: list[Known], said: tuple[str, ...]) -> Known | None:
    """Return the reply that a list goes on from, by the rules; None: it is a new conversation."""
    last_used: dict[str, int] = {}
    for one in known:
        last_used[one.conversation] = one.order
    begins = [one for one in known if said[: len(one.full)] == one.full and len(one.full) < len(said)]
    begins = [one for one in begins if one.full[-1] == said[len(one.full) - 1]]
    if begins:
        longest = max(len(one.full) for one in begins)
        return max(
            (one for one in begins if len(one.full) == longest),
            key=lambda one: (last_used[one.conversation], one.order),
        )
    history = list_history(said)
    exchanges = sum(
        one.startswith("user:") and (not place or not history[place - 1].startswith("user:"))
        for place, one in enumerate(history)
    )
    if exchanges < 2 or not history[0].startswith("user:"):
        return None
    heads = [one for one in known if one.order == last_used[one.conversation]]
    ends = [one for one in heads if one.full[-len(history) :] == history]
    return ends[0] if len(ends) == 1 else None
