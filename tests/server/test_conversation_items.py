"""Test the routes of a conversation's items, by the official client and by HTTP."""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai.types.conversations import Message
from openai.types.responses import ResponseFunctionToolCallItem
from sqlalchemy import create_engine, text

from convstore import Store
from convstore.testing import Reply
from tests.server.conftest import KeyedService

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sun"}
REPLY: dict[str, Any] = {
    "id": "msg_of_a_model",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "It is sunny.", "annotations": [], "logprobs": []}],
}


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text, **more}


@pytest.fixture
def owner() -> str:
    return f"team-{uuid.uuid4()}"


@pytest.fixture
def store(keyed: KeyedService, owner: str) -> Store:
    return keyed.store.for_owner(owner)


@pytest.fixture
def client(keyed: KeyedService, owner: str) -> Iterator[openai.OpenAI]:
    headers = {"X-Convstore-Owner": owner}
    url = f"{keyed.running.url}/v1"
    with openai.OpenAI(base_url=url, api_key=keyed.keys.agent, max_retries=0, default_headers=headers) as client:
        yield client


def say(item: Any) -> str:
    """Return the text of an item that the client got."""
    return "".join(getattr(part, "text", "") for part in item.content)


def list_texts(client: openai.OpenAI, id: str, **how: Any) -> list[str]:
    return [say(item) for item in client.conversations.items.list(id, **how)]


def test_what_was_added_is_given_back(client: openai.OpenAI, store: Store) -> None:
    first: Any = [{"role": "user", "content": "Weather?"}]
    made = client.conversations.create(items=first, metadata={"topic": "weather"})
    added = client.conversations.items.create(made.id, items=[CALL, RESULT, REPLY])  # type: ignore[list-item]
    assert [item.type for item in added.data] == ["function_call", "function_call_output", "message"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, "msg_of_a_model", False)
    listed = list(client.conversations.items.list(made.id, order="asc"))
    assert listed[1:] == added.data
    assert isinstance(listed[0], Message)
    assert (listed[0].role, listed[0].status, say(listed[0])) == ("user", "completed", "Weather?")
    assert isinstance(listed[1], ResponseFunctionToolCallItem)
    assert (listed[1].call_id, listed[1].name, listed[1].arguments) == ("c1", "f", '{"a": 1}')
    assert listed[3].to_dict() == REPLY
    assert [client.conversations.items.retrieve(one.id or "", conversation_id=made.id) for one in listed] == listed
    assert len({one.id for one in listed}) == 4
    assert store.get(made.id).metadata == {"topic": "weather"}
    assert store.get(made.id).title == "Weather?"


def test_an_item_of_an_unknown_kind_is_kept_as_it_is(keyed: KeyedService, client: openai.OpenAI, owner: str) -> None:
    made = client.conversations.create()
    odd = {"type": "x_vendor.thing", "id": "thing_1", "deep": {"list": [1, 1.5, None, True], "text": "\u0000é😀"}}
    headers = {"X-Convstore-Owner": owner}
    path = f"/v1/conversations/{made.id}/items"
    sent = keyed.running.ask("POST", path, key=keyed.keys.agent, headers=headers, json={"items": [odd]})
    assert sent.json()["data"] == [odd]
    got = keyed.running.ask("GET", f"{path}/thing_1", key=keyed.keys.agent, headers=headers)
    assert got.json() == odd


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_items_are_listed_page_by_page(client: openai.OpenAI, store: Store, order: Any, limit: int) -> None:
    made = client.conversations.create(items=[user(str(number)) for number in range(4)])  # type: ignore[misc]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    store.append(made.id, {"role": "assistant", "content": "a", "tool_calls": [call, {**call, "id": "c2"}]})
    client.conversations.items.create(made.id, items=[user("4", id="own")])  # type: ignore[list-item]
    found = list(client.conversations.items.list(made.id, order=order, limit=limit))
    kinds = [say(item) if isinstance(item, Message) else item.call_id for item in found]  # type: ignore[union-attr]
    wanted = ["0", "1", "2", "3", "a", "c1", "c2", "4"]
    assert kinds == (wanted if order == "asc" else wanted[::-1])
    assert len({item.id for item in found}) == 8


def test_the_last_items_come_first_unless_another_order_is_asked(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[user("a"), user("b")])  # type: ignore[list-item]
    assert list_texts(client, made.id) == ["b", "a"]
    page = client.conversations.items.list(made.id, limit=1)
    assert (page.has_more, page.last_id) == (True, page.data[0].id)
    assert list_texts(client, client.conversations.create().id) == []


def test_deleting_the_last_item_moves_the_head(client: openai.OpenAI, store: Store) -> None:
    made = client.conversations.create(items=[user("a"), user("b")])  # type: ignore[list-item]
    last, first = client.conversations.items.list(made.id)
    after = client.conversations.items.delete(last.id or "", conversation_id=made.id)
    assert after.id == made.id
    assert list_texts(client, made.id) == ["a"]
    assert len(store.tree(made.id)) == 2  # nothing was removed
    client.conversations.items.delete(first.id or "", conversation_id=made.id)
    assert list_texts(client, made.id) == []
    client.conversations.items.create(made.id, items=[user("c")])  # type: ignore[list-item]
    assert list_texts(client, made.id) == ["c"]


def test_deleting_an_item_in_the_middle_makes_a_branch_without_it(client: openai.OpenAI, store: Store) -> None:
    made = client.conversations.create(items=[user(text) for text in "abcd"])  # type: ignore[misc]
    items = list(client.conversations.items.list(made.id, order="asc"))
    client.conversations.items.delete(items[1].id or "", conversation_id=made.id)
    assert list(client.conversations.items.list(made.id, order="asc")) == [items[0], *items[2:]]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(items[1].id or "", conversation_id=made.id)
    assert client.conversations.items.retrieve(items[3].id or "", conversation_id=made.id) == items[3]
    assert len(store.tree(made.id)) == 6
    client.conversations.items.delete(items[0].id or "", conversation_id=made.id)
    assert list_texts(client, made.id, order="asc") == ["c", "d"]


def test_one_call_of_a_chat_message_can_be_deleted(client: openai.OpenAI, store: Store) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [call, {**call, "id": "c2"}]
    made = store.new(messages=[{"role": "assistant", "content": "a", "tool_calls": calls}])
    text, first, second = client.conversations.items.list(made.id, order="asc")
    client.conversations.items.delete(first.id or "", conversation_id=made.id)
    assert list(client.conversations.items.list(made.id, order="asc")) == [text, second]
    assert store.history(made.id) == [{"role": "assistant", "content": "a", "tool_calls": [calls[1]]}]


def test_an_id_that_is_taken_is_given_to_the_first_alone(client: openai.OpenAI) -> None:
    fake = [user(text, id="__fake_id__") for text in "abc"]
    made = client.conversations.create(items=fake[:2])  # type: ignore[arg-type]
    client.conversations.items.create(made.id, items=fake[2:])  # type: ignore[arg-type]
    items = list(client.conversations.items.list(made.id, order="asc", limit=1))
    assert [say(item) for item in items] == ["a", "b", "c"]
    assert items[0].id == "__fake_id__"
    assert len({item.id for item in items}) == 3
    other = client.conversations.create(items=fake[:1])  # type: ignore[arg-type]
    assert next(iter(client.conversations.items.list(other.id))).id == "__fake_id__"


@pytest.mark.parametrize("id", ["a/b", "", "x" * 300, "\u0000", 7, None])
def test_an_id_that_cannot_be_one_is_replaced(client: openai.OpenAI, id: Any) -> None:
    made = client.conversations.create(items=[user("a", id=id)])  # type: ignore[list-item]
    (item,) = client.conversations.items.list(made.id)
    assert item.id not in (id, None)
    assert client.conversations.items.retrieve(item.id or "", conversation_id=made.id) == item


def test_a_fork_has_the_items_that_it_shares(client: openai.OpenAI, store: Store) -> None:
    made = client.conversations.create(items=[user(text, id=f"own-{text}") for text in "abc"])  # type: ignore[misc]
    fork = store.fork(made.id, at=2)
    client.conversations.items.create(fork.id, items=[user("d", id="own-c")])  # type: ignore[list-item]
    assert list_texts(client, fork.id, order="asc") == ["a", "b", "d"]
    assert client.conversations.items.retrieve("own-b", conversation_id=fork.id).id == "own-b"
    assert say(client.conversations.items.retrieve("own-c", conversation_id=fork.id)) == "d"
    assert say(client.conversations.items.retrieve("own-c", conversation_id=made.id)) == "c"
    client.conversations.items.delete("own-a", conversation_id=fork.id)
    assert list_texts(client, fork.id, order="asc") == ["b", "d"]
    assert list_texts(client, made.id, order="asc") == ["a", "b", "c"]
    store.purge(made.id)
    assert list_texts(client, fork.id, order="asc") == ["b", "d"]
    assert client.conversations.items.retrieve("own-b", conversation_id=fork.id).id == "own-b"


def test_items_are_sent_to_a_model_as_chat_messages(keyed: KeyedService, client: openai.OpenAI, owner: str) -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Weather here?"}, image]}
    items: list[Any] = [asked, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}, REPLY]
    made = client.conversations.create(items=items)
    with Store(keyed.url, owner=owner, base_url=keyed.upstream.url, model="test-model") as speaker:
        keyed.upstream.script(Reply("Bye"))
        speaker.say(made.id, "Thanks")
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        assert keyed.upstream.requests[-1].body["messages"] == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Weather here?"},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                ],
            },
            {"role": "assistant", "tool_calls": [call, {**call, "id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
            {"role": "tool", "tool_call_id": "c2", "content": "sun"},
            {"role": "assistant", "content": "It is sunny."},
            {"role": "user", "content": "Thanks"},
        ]
        assert [hit.seq for hit in speaker.search("sunny").hits] == [6]
        assert list(speaker.iterate_history(made.id)) == speaker.history(made.id)
        assert speaker.undo(made.id).length == 6
        assert speaker.undo(made.id).length == 0
        assert speaker.redo(made.id).length == 6
    assert say(client.conversations.items.list(made.id, limit=1).data[0]) == "It is sunny."


def test_a_list_of_chat_messages_goes_on_after_the_items_that_say_the_same(
    keyed: KeyedService, client: openai.OpenAI, store: Store
) -> None:
    calls = [CALL, {**CALL, "call_id": "c2"}]
    results = [RESULT, {**RESULT, "call_id": "c2"}]
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "xyz"}
    made = client.conversations.create(items=[user("Weather?"), reasoning, *calls, *results, REPLY])  # type: ignore[list-item]
    messages: list[Any] = [*store.history(made.id), {"role": "user", "content": "Thanks"}]
    assert len(messages) == 6
    keyed.upstream.script(Reply("Bye"))
    named = {"X-Conversation-Id": made.id}
    client.chat.completions.create(model="test-model", messages=messages, extra_headers=named)
    assert len(store.tree(made.id)) == 9  # the question and the reply alone are new
    assert store.history(made.id) == [*messages, {"role": "assistant", "content": "Bye"}]


def test_a_client_that_sends_what_is_new_alone_goes_on_after_items(
    keyed: KeyedService, client: openai.OpenAI, store: Store
) -> None:
    items: Any = [user("Weather?"), CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}, REPLY]
    made = client.conversations.create(items=items)
    history = store.history(made.id)
    assert [message["role"] for message in history] == ["user", "assistant", "tool", "tool", "assistant"]
    question: Any = {"role": "user", "content": "Thanks"}
    keyed.upstream.script(Reply("Bye"))
    answer = client.chat.completions.create(
        model="test-model", messages=[question], extra_body={"conversation": made.id}
    )
    assert keyed.upstream.requests[-1].body["messages"] == [*history, question]
    texts = [say(item) for item in client.conversations.items.list(made.id, limit=2).data]
    assert texts == ["Bye", "Thanks"]
    assert client.chat.completions.retrieve(answer.id).choices == answer.choices


def test_a_redacted_item_is_read_without_its_text(client: openai.OpenAI, store: Store) -> None:
    secret = "hunter2Pa55wort"
    items: list[Any] = [
        {**REPLY, "content": [{**REPLY["content"][0], "text": f"It is {secret}."}]},
        {"type": "x_thing", "id": "thing", "text": f"its {secret}"},
        {**RESULT, "output": f"{secret}!"},
    ]
    made = client.conversations.create(items=items)
    for position in (1, 2):
        store.redact(made.id, position, match=secret)
    store.redact(made.id, 3)
    listed = [item.to_dict() for item in client.conversations.items.list(made.id, order="asc")]
    assert secret not in str(listed)
    assert listed[0]["id"] == "msg_of_a_model"
    assert listed[0]["content"][0]["text"] == "It is [redacted]."  # type: ignore[index]
    assert listed[1] == {"type": "x_thing", "id": "thing", "text": "its [redacted]"}
    assert (listed[2]["call_id"], listed[2]["output"]) == ("c1", "[redacted]")
    again = client.conversations.items.retrieve(str(listed[2]["id"]), conversation_id=made.id)
    assert again.to_dict() == listed[2]


def test_an_export_has_the_items(client: openai.OpenAI, store: Store, tmp_path: Path) -> None:
    made = client.conversations.create(items=[user("a"), CALL, REPLY])  # type: ignore[list-item]
    before = [item.to_dict() for item in client.conversations.items.list(made.id)]
    store.export(tmp_path / "out.jsonl", made.id)
    store.purge(made.id)
    store.import_(tmp_path / "out.jsonl", again=True)
    assert [item.to_dict() for item in client.conversations.items.list(made.id)] == before
    assert client.conversations.items.retrieve("msg_of_a_model", conversation_id=made.id).to_dict() == REPLY


def test_adding_waits_for_a_running_turn(keyed: KeyedService, client: openai.OpenAI, owner: str) -> None:
    made = client.conversations.create(items=[user("a")])  # type: ignore[list-item]
    go, begun = threading.Event(), threading.Event()
    keyed.upstream.script(Reply("b", hold=go, started=begun))
    with Store(keyed.url, owner=owner, base_url=keyed.upstream.url, model="test-model") as speaker:
        saying = threading.Thread(target=speaker.say, args=(made.id, "q"))
        saying.start()
        assert begun.wait(10)
        adding = threading.Thread(
            target=client.conversations.items.create, args=(made.id,), kwargs={"items": [user("c")]}
        )
        adding.start()
        adding.join(0.5)
        assert adding.is_alive()
        go.set()
        adding.join(20)
        saying.join(20)
    assert list_texts(client, made.id, order="asc") == ["a", "q", "b", "c"]


def test_the_async_client_works_too(client: openai.OpenAI) -> None:
    async def use() -> list[str]:
        options = {"base_url": client.base_url, "api_key": client.api_key, "default_headers": client._custom_headers}
        async with openai.AsyncOpenAI(**options) as same:  # type: ignore[arg-type]
            made = await same.conversations.create(items=[user("a")])  # type: ignore[list-item]
            await same.conversations.items.create(made.id, items=[user("b"), user("c")])  # type: ignore[list-item]
            (item,) = [one async for one in same.conversations.items.list(made.id, order="asc") if say(one) == "b"]
            await same.conversations.items.delete(item.id or "", conversation_id=made.id)
            return [say(one) async for one in same.conversations.items.list(made.id, order="asc", limit=1)]

    assert asyncio.run(use()) == ["a", "c"]


def test_a_request_that_the_client_repeats_adds_its_items_once(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[user("a")])  # type: ignore[list-item]

    def add(*items: Any, count: int = 1) -> list[str | None]:
        again = {"x-stainless-retry-count": str(count)}
        return [one.id for one in client.conversations.items.create(made.id, items=items, extra_headers=again).data]

    first = add(user("b"), CALL, count=0)
    assert add(user("b"), CALL) == add(user("b"), CALL, count=2) == first  # its answer was lost
    assert add(CALL) != first[1:]  # a part of what was added is not the same request
    assert len(add(user("b"), {**CALL, "arguments": "{}"})) == 2
    assert add(user("c", id="own")) == add(user("c", id="own")) == ["own"]
    assert add(user("c")) != ["own"]
    add(user("c"), count=0)
    kinds = [say(item) if isinstance(item, Message) else "call" for item in client.conversations.items.list(made.id)]
    assert kinds[::-1] == ["a", "b", "call", "call", "b", "call", "c", "c", "c"]


def test_large_files_in_items_are_stored_once_as_bytes(client: openai.OpenAI, keyed: KeyedService, owner: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 64).decode()
    image = {"type": "input_image", "image_url": url, "detail": "auto"}
    asked = {"type": "message", "role": "user", "status": "completed", "content": [image]}
    made = client.conversations.create(items=[asked, {"type": "x_screenshot", "id": "shot", "deep": [{"url": url}]}])  # type: ignore[list-item]
    first, second = (item.to_dict() for item in client.conversations.items.list(made.id, order="asc"))
    assert first == {**asked, "id": first["id"]}
    assert second == {"type": "x_screenshot", "id": "shot", "deep": [{"url": url}]}
    engine = create_engine(keyed.url)
    with engine.connect() as connection:
        sizes = text("SELECT length(data) FROM convstore_attachments WHERE owner = :owner")
        assert connection.scalars(sizes, {"owner": owner}).all() == [256 * 64]
        extras = text("SELECT max(length(extra)) FROM convstore_messages WHERE owner = :owner")
        assert (connection.scalar(extras, {"owner": owner}) or 0) < 1000
    engine.dispose()


def test_an_item_that_is_nested_too_deep_is_refused(keyed: KeyedService) -> None:
    deep: Any = "x"
    for _ in range(99):
        deep = [deep]
    id = keyed.store.for_owner("ada").new().id
    body = {"items": [{"type": "x", "deep": deep}]}
    for path in (f"/v1/conversations/{id}/items", "/v1/conversations"):
        answer = keyed.running.ask("POST", path, key=keyed.keys.ada, json=body)
        assert answer.status_code == 400
    assert keyed.store.for_owner("ada").get(id).length == 0


def test_items_of_many_clients_at_once_are_all_there_once(client: openai.OpenAI, store: Store) -> None:
    made = client.conversations.create()

    def add(name: str) -> None:
        for number in range(5):
            items: Any = [user(f"{name}-{number}-{place}") for place in range(3)]
            client.conversations.items.create(made.id, items=items)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, "abcdefgh"))
    found = list_texts(client, made.id, order="asc", limit=100)
    assert len(found) == len(set(found)) == 8 * 5 * 3
    batches = [found[begin : begin + 3] for begin in range(0, len(found), 3)]
    assert all([text[:-1] for text in batch] == [batch[0][:-1]] * 3 for batch in batches)
    for name in "abcdefgh":
        said = [text for text in found if text.startswith(name)]
        assert said == sorted(said)


class LosesFirstAnswer(httpx.HTTPTransport):
    """Sends requests, and loses the answer to the first POST."""

    has_lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.method == "POST" and not self.has_lost:
            self.has_lost = True
            response.read()
            raise httpx.ReadError("the connection broke")
        return response


def test_a_lost_answer_does_not_add_items_twice(keyed: KeyedService, owner: str, store: Store) -> None:
    id, headers = store.new().id, {"X-Convstore-Owner": owner}
    transport = LosesFirstAnswer()
    with openai.OpenAI(
        base_url=f"{keyed.running.url}/v1",
        api_key=keyed.keys.agent,
        default_headers=headers,
        http_client=httpx.Client(transport=transport),
    ) as client:
        added = client.conversations.items.create(id, items=[user("a"), user("b")])  # type: ignore[list-item]
        assert transport.has_lost
        assert list(client.conversations.items.list(id, order="asc")) == added.data
        assert len(added.data) == 2


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (None, "items"),
        ([], "items"),
        ("text", "items"),
        ([user("a")] * 21, "items"),
        ([user("a"), "text"], "items[1].type"),
        ([{"type": 7}], "items[0].type"),
        ([{"type": "message", "content": "x"}], "items[0].role"),
        ([{"role": "user"}], "items[0].content"),
    ],
)
def test_what_is_no_item_is_refused(keyed: KeyedService, items: Any, param: str) -> None:
    id = keyed.store.for_owner("ada").new().id
    body = {"items": items} if items is not None else {}
    answer = keyed.running.ask("POST", f"/v1/conversations/{id}/items", key=keyed.keys.ada, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert keyed.store.for_owner("ada").get(id).length == 0


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "order=up", "after=nothing"])
def test_a_wrong_parameter_is_refused(keyed: KeyedService, query: str) -> None:
    id = keyed.store.for_owner("ada").new().id
    answer = keyed.running.ask("GET", f"/v1/conversations/{id}/items?{query}", key=keyed.keys.ada)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_what_to_include_is_accepted(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[user("a")])  # type: ignore[list-item]
    assert len(client.conversations.items.list(made.id, include=["reasoning.encrypted_content"]).data) == 1
