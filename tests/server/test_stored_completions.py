"""Test the routes of stored completions, by the official client and by HTTP."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted

from convstore import AsyncStore, Store
from convstore.conversations import stored_completions
from convstore.store.completion_archive import CompletionArchive
from convstore.testing import Failure, Reply
from convstore.values.stored_completion import CompletionFilter
from tests.server.conftest import KeyedService


@pytest.fixture
def owner() -> str:
    return f"team-{uuid.uuid4()}"


@pytest.fixture
def client(keyed: KeyedService, owner: str) -> Iterator[openai.OpenAI]:
    headers = {"X-Convstore-Owner": owner}
    url = f"{keyed.running.url}/v1"
    with openai.OpenAI(base_url=url, api_key=keyed.keys.agent, max_retries=0, default_headers=headers) as client:
        yield client


def say(client: openai.OpenAI, text: str, **how: Any) -> ChatCompletion:
    completion: ChatCompletion = client.chat.completions.create(
        model=how.pop("model", "test-model"), messages=[{"role": "user", "content": text}], **how
    )
    return completion


def list_ids(client: openai.OpenAI, **how: Any) -> list[str]:
    return [one.id for one in client.chat.completions.list(**how)]


def test_a_completion_is_given_back_as_the_client_got_it(keyed: KeyedService, client: openai.OpenAI) -> None:
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        "x_vendor": {"kept": [1]},
    }
    keyed.upstream.script(Reply(message=message, finish_reason="tool_calls"))
    made = say(client, "Hello", metadata={"topic": "tea"}, extra_body={"store": True})
    found = client.chat.completions.retrieve(made.id)
    assert found.metadata == {"topic": "tea"}
    kept = found.to_dict(exclude_none=True)
    assert kept.pop("metadata") == {"topic": "tea"}
    assert kept == made.to_dict(exclude_none=True)


def test_a_streamed_completion_is_found_under_the_id_of_its_chunks(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="test-model", messages=[{"role": "user", "content": "Hello, you"}], stream=True
        )
    )
    (id,) = {chunk.id for chunk in chunks}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    found = client.chat.completions.retrieve(id)
    assert found.choices[0].message.content == text
    assert found.choices[0].finish_reason == "stop"
    assert found.object == "chat.completion"


@pytest.mark.parametrize("stream", [False, True])
def test_all_choices_are_given_back(keyed: KeyedService, client: openai.OpenAI, stream: bool) -> None:
    choices = [
        {"index": number, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for number, (text, reason) in enumerate([("one", "stop"), ("two", "length"), ("three", "stop")])
    ]
    if stream:
        chunks = [
            {
                "id": "several",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": one["index"], "delta": one["message"], "finish_reason": one["finish_reason"]}],
            }
            for one in choices
        ]
        keyed.upstream.script(Reply(chunks=chunks))
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], n=3, stream=True))
        id = "several"
    else:
        keyed.upstream.script(Reply(choices=choices))
        id = say(client, "x", n=3).id
    found = client.chat.completions.retrieve(id)
    given = [(one.index, one.message.content, one.finish_reason) for one in found.choices]
    assert given == [(0, "one", "stop"), (1, "two", "length"), (2, "three", "stop")]


def test_completions_are_listed_in_the_order_of_their_requests(client: openai.OpenAI) -> None:
    ids = [say(client, f"Hello {number}").id for number in range(5)]
    assert list_ids(client, limit=2) == ids
    assert list_ids(client, limit=2, order="desc") == ids[::-1]
    page = client.chat.completions.list(limit=2, after=ids[1])
    assert [one.id for one in page.data] == ids[2:4]
    assert page.has_more
    assert not client.chat.completions.list(limit=2, after=ids[2]).has_more


def test_a_list_is_narrowed_by_model_and_metadata(keyed: KeyedService, client: openai.OpenAI) -> None:
    first = say(client, "a", metadata={"topic": "tea", "who": "ada"})
    keyed.upstream.script(Reply("Hi", model="large-2026"))
    second = say(client, "b", metadata={"topic": "tea"}, model="large")
    third = say(client, "c", metadata={"topic": "coffee"})
    assert list_ids(client, metadata={"topic": "tea"}) == [first.id, second.id]
    assert list_ids(client, metadata={"topic": "tea", "who": "ada"}) == [first.id]
    assert list_ids(client, metadata={"topic": "te"}) == []
    assert list_ids(client, model="large") == list_ids(client, model="large-2026") == [second.id]
    assert list_ids(client, model="test-model", metadata={"topic": "coffee"}) == [third.id]


def test_a_rare_value_of_metadata_is_found_among_many(
    keyed: KeyedService, owner: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        say(client, str(number), **({"metadata": {"at": "edge"}} if number in (0, 5, 6) else {})) for number in range(7)
    ]
    monkeypatch.setattr(stored_completions, "_READ_AT_ONCE", 2)

    async def read() -> list[str]:
        found: list[str] = []
        async with AsyncStore(keyed.url, owner=owner) as store:
            has_more = True
            while has_more:
                wanted = CompletionFilter(limit=1, after=found[-1] if found else None, metadata={"at": "edge"})
                page, has_more = await CompletionArchive(store).list(wanted)
                found += [one.place.id for one in page]
        return found

    assert asyncio.run(read()) == [made[0].id, made[5].id, made[6].id]


def test_a_fork_keeps_the_completions_that_it_shares_with_a_purged_conversation(
    keyed: KeyedService, owner: str, client: openai.OpenAI
) -> None:
    made = say(client, "Hello", metadata={"topic": "tea"})
    store = keyed.store.for_owner(owner)
    (conversation,) = store.list()
    store.fork(conversation.id)
    store.purge(conversation.id)
    assert list_ids(client, metadata={"topic": "tea"}) == [made.id]
    assert client.chat.completions.retrieve(made.id).choices == made.choices
    assert [one.content for one in client.chat.completions.messages.list(made.id)] == ["Hello"]


def test_what_failed_or_was_not_to_be_stored_is_not_listed(keyed: KeyedService, client: openai.OpenAI) -> None:
    keyed.upstream.script(Failure(500), Reply("cut", cut_after=150))
    for _ in range(2):
        with pytest.raises(openai.APIError):
            say(client, "Hello")
    hidden = say(client, "Hello", store=False)
    assert list_ids(client) == []
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(hidden.id)


def test_an_update_changes_the_metadata_alone(keyed: KeyedService, owner: str, client: openai.OpenAI) -> None:
    made = say(client, "Hello", metadata={"topic": "tea"})
    changed = client.chat.completions.update(made.id, metadata={"topic": "coffee", "b": "c"})
    assert changed.metadata == {"topic": "coffee", "b": "c"}
    assert changed.choices == made.choices
    assert client.chat.completions.retrieve(made.id) == changed
    assert list_ids(client, metadata={"topic": "tea"}) == []
    assert client.chat.completions.update(made.id, metadata=None).metadata == {}
    store = keyed.store.for_owner(owner)
    (turn,) = store.turns(store.list()[0].id)
    assert turn.request["metadata"] == {"topic": "tea"}  # what was sent stays
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.update(made.id, metadata={"a": 1})  # type: ignore[dict-item]


def test_a_deleted_completion_is_hidden_and_its_conversation_is_not(
    keyed: KeyedService, owner: str, client: openai.OpenAI
) -> None:
    made, other = say(client, "Hello"), say(client, "Hello")
    deleted = client.chat.completions.delete(made.id)
    assert deleted == ChatCompletionDeleted(id=made.id, deleted=True, object="chat.completion.deleted")
    assert list_ids(client) == [other.id]
    for ask in (
        client.chat.completions.retrieve,
        client.chat.completions.delete,
        client.chat.completions.messages.list,
    ):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.update(made.id, metadata={})
    store = keyed.store.for_owner(owner)
    assert [len(store.history(one.id)) for one in store.list()] == [2, 2]
    more: list[Any] = [{"role": "user", "content": "Hello"}, made.choices[0].message, {"role": "user", "content": "x"}]
    client.chat.completions.create(model="test-model", messages=more)
    assert sorted(len(store.history(one.id)) for one in store.list()) == [2, 4]  # it is found by lists


def test_the_completions_of_a_deleted_conversation_are_hidden_with_it(
    keyed: KeyedService, owner: str, client: openai.OpenAI
) -> None:
    made = say(client, "Hello")
    store = keyed.store.for_owner(owner)
    (conversation,) = store.list()
    store.delete(conversation.id)
    assert list_ids(client) == []
    store.restore(conversation.id)
    assert list_ids(client) == [made.id]
    store.purge(conversation.id)
    assert list_ids(client) == []


def test_of_several_with_one_id_the_newest_counts_and_never_another_owners(
    keyed: KeyedService, client: openai.OpenAI
) -> None:
    keyed.upstream.script(*(Reply(text, id="same") for text in ("one", "two", "bob's")))
    for text in ("a", "b"):
        say(client, text)
    with openai.OpenAI(base_url=f"{keyed.running.url}/v1", api_key=keyed.keys.bob) as bobs:
        say(bobs, "c")
        assert bobs.chat.completions.retrieve("same").choices[0].message.content == "bob's"
        assert client.chat.completions.retrieve("same").choices[0].message.content == "two"
        client.chat.completions.delete("same")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve("same")
        assert bobs.chat.completions.retrieve("same").choices[0].message.content == "bob's"


def test_the_messages_are_those_that_were_asked(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    asked: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    first = client.chat.completions.create(model="test-model", messages=asked)
    asked += [first.choices[0].message.to_dict(), {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(model="test-model", messages=asked)
    found = list(client.chat.completions.messages.list(second.id, limit=3))
    assert [one.role for one in found] == ["system", "user", "assistant", "user"]
    assert [one.content for one in found] == ["Be brief.", None, first.choices[0].message.content, "And?"]
    assert [part.to_dict() for part in found[1].content_parts or []] == parts
    assert [one.id for one in found] == [f"{second.id}-{number}" for number in range(4)]
    backwards = list(client.chat.completions.messages.list(second.id, limit=3, order="desc"))
    assert backwards == found[::-1]
    assert [one.id for one in client.chat.completions.messages.list(first.id)] == [f"{first.id}-0", f"{first.id}-1"]


def test_the_async_client_works_too(keyed: KeyedService, client: openai.OpenAI) -> None:
    made = say(client, "Hello")

    async def use() -> list[str]:
        options = {"base_url": client.base_url, "api_key": client.api_key, "default_headers": client._custom_headers}
        async with openai.AsyncOpenAI(**options) as same:  # type: ignore[arg-type]
            await same.chat.completions.update(made.id, metadata={"a": "b"})
            return [one.id async for one in same.chat.completions.list(metadata={"a": "b"})]

    assert asyncio.run(use()) == [made.id]


def test_a_reply_without_an_id_has_one_of_ours(keyed: KeyedService, client: openai.OpenAI) -> None:
    keyed.upstream.script(Reply("Hi", id=""))
    say(client, "Hello")
    (found,) = client.chat.completions.list()
    assert client.chat.completions.retrieve(found.id) == found
    assert found.choices[0].message.content in ("Hi",)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("order=up", "order"), ("after=nothing", "after")],
)
def test_a_wrong_parameter_is_refused(keyed: KeyedService, client: openai.OpenAI, query: str, param: str) -> None:
    id = say(client, "Hello").id
    headers = {"X-Convstore-Owner": str(client._custom_headers["X-Convstore-Owner"])}
    for path in ("/v1/chat/completions", f"/v1/chat/completions/{id}/messages"):
        answer = keyed.running.ask("GET", f"{path}?{query}", key=keyed.keys.agent, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_redaction_removes_what_the_client_says_about_a_completion(
    keyed: KeyedService, owner: str, client: openai.OpenAI
) -> None:
    secret = "hunter2Pa55wort"
    made = say(client, f"It is {secret}", metadata={"said": f"his {secret}", "topic": "tea"})
    store: Store = keyed.store.for_owner(owner)
    (conversation,) = store.list()
    store.redact(conversation.id, 1, match=secret, everywhere=True)
    found = client.chat.completions.retrieve(made.id)
    assert found.metadata == {"said": "his [redacted]", "topic": "tea"}
    assert secret not in found.to_json()
