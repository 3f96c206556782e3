"""Test the routes of conversations and models, by HTTP and by the official client."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor, wait

import openai
import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource
from sqlalchemy import create_engine

from tests.server.conftest import KeyedService


@pytest.fixture
def client(keyed: KeyedService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{keyed.running.url}/v1", api_key=keyed.keys.ada, max_retries=0)


def test_the_official_client_makes_reads_changes_and_deletes_a_conversation(
    keyed: KeyedService, client: openai.OpenAI
) -> None:
    made = client.conversations.create(metadata={"topic": "games"})
    assert isinstance(made, Conversation)
    assert (made.object, made.metadata) == ("conversation", {"topic": "games"})
    stored = keyed.store.for_owner("ada").get(made.id)
    assert (stored.metadata, int(stored.created_at.timestamp())) == ({"topic": "games"}, made.created_at)
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"topic": "tea"})
    assert changed.metadata == {"topic": "tea"}
    assert client.conversations.update(made.id, metadata=None).metadata == {}
    deleted = client.conversations.delete(made.id)
    assert deleted == ConversationDeletedResource(id=made.id, deleted=True, object="conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)
    assert keyed.store.for_owner("ada").restore(made.id).id == made.id
    client.close()


async def _use_async_client(url: str, key: str) -> str:
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        made = await client.conversations.create()
        return (await client.conversations.retrieve(made.id)).id


def test_the_async_client_works_too(keyed: KeyedService) -> None:
    import asyncio

    id = asyncio.run(_use_async_client(f"{keyed.running.url}/v1", keyed.keys.bob))
    assert keyed.store.for_owner("bob").get(id).id == id


def test_conversations_are_listed_page_by_page(keyed: KeyedService) -> None:
    owner = f"team-{uuid.uuid4()}"
    ids = [keyed.store.for_owner(owner).new().id for _ in range(5)][::-1]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = keyed.running.ask(
            "GET",
            "/v1/conversations",
            key=keyed.keys.agent,
            headers={"X-Convstore-Owner": owner},
            params={"limit": 2, **after},
        ).json()
        found += [one["id"] for one in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", page["data"][0]["id"], found[-1])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert found == ids


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=²", "order=asc", "after=nothing"])
def test_a_wrong_parameter_of_a_list_is_refused(keyed: KeyedService, query: str) -> None:
    answer = keyed.running.ask("GET", f"/v1/conversations?{query}", key=keyed.keys.ada)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": []},
        {"metadata": {"a": 1}},
        {"metadata": {"a" * 65: "x"}},
        {"metadata": {"a": "x" * 513}},
        {"metadata": {str(number): "x" for number in range(17)}},
        {"items": [{"role": "user", "content": "Hello"}] * 21},
    ],
    ids=lambda body: next(iter(body)),
)
def test_what_a_conversation_cannot_have_is_refused_in_openais_form(keyed: KeyedService, body: object) -> None:
    answer = keyed.running.ask("POST", "/v1/conversations", key=keyed.keys.ada, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] in ("metadata", "items")


@pytest.mark.parametrize("body", [rb'{"metadata":{"a":"\ud800"}}', rb'{"metadata":{"\udc00":"b"}}'])
def test_half_of_a_surrogate_pair_is_refused(keyed: KeyedService, body: bytes) -> None:
    id = keyed.store.for_owner("ada").new().id
    for path in ("/v1/conversations", f"/v1/conversations/{id}"):
        answer = keyed.running.ask(
            "POST", path, key=keyed.keys.ada, content=body, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")
    assert keyed.store.for_owner("ada").get(id).metadata == {}


def test_half_of_a_surrogate_pair_that_is_stored_is_shown(keyed: KeyedService) -> None:
    owner = f"team-{uuid.uuid4()}"
    id = keyed.store.for_owner(owner).new(metadata={"a": "\ud800é"}).id
    for path in ("/v1/conversations", f"/v1/conversations/{id}"):
        answer = keyed.running.ask("GET", path, key=keyed.keys.agent, headers={"X-Convstore-Owner": owner})
        assert answer.status_code == 200
        assert rb'"metadata":{"a":"\ud800\u00e9"}' in answer.content


def test_an_update_needs_metadata_and_keeps_what_is_no_text(keyed: KeyedService) -> None:
    store = keyed.store.for_owner("ada")
    id = store.new(metadata={"import": {"kind": "chatgpt"}, "topic": "old"}).id
    path = f"/v1/conversations/{id}"
    assert keyed.running.ask("POST", path, key=keyed.keys.ada, json={}).status_code == 400
    assert keyed.running.ask("POST", path, key=keyed.keys.ada, json={"metadata": {"a": "b"}}).status_code == 200
    assert store.get(id).metadata == {"import": {"kind": "chatgpt"}, "a": "b"}


def test_an_update_keeps_what_another_transaction_stores_meanwhile(keyed: KeyedService) -> None:
    store = keyed.store.for_owner("ada")
    id = store.new(metadata={"topic": "old"}).id
    engine = create_engine(keyed.url)
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as connection:
            store.using(connection).set(id, metadata={"import": {"kind": "chatgpt"}, "topic": "older"})
            body = {"metadata": {"a": "b"}}
            answer = threads.submit(keyed.running.ask, "POST", f"/v1/conversations/{id}", key=keyed.keys.ada, json=body)
            wait([answer], timeout=0.5)  # it waits for our transaction; with time to read before, if it did
        assert (answer.result().status_code, answer.result().json()["metadata"]) == (200, {"a": "b"})
    engine.dispose()
    assert store.get(id).metadata == {"import": {"kind": "chatgpt"}, "a": "b"}


def test_where_a_conversation_was_imported_from_is_not_for_clients(keyed: KeyedService) -> None:
    owner = f"team-{uuid.uuid4()}"
    origin = {"kind": "chatgpt", "file": "/home/ada/private.json"}
    id = keyed.store.for_owner(owner).new(metadata={"import": origin, "number": 1, "topic": "tea"}).id
    headers = {"X-Convstore-Owner": owner}
    body = {"metadata": {"topic": "tea"}}
    path = f"/v1/conversations/{id}"
    one = keyed.running.ask("GET", path, key=keyed.keys.agent, headers=headers).json()
    listed = keyed.running.ask("GET", "/v1/conversations", key=keyed.keys.agent, headers=headers).json()
    changed = keyed.running.ask("POST", path, key=keyed.keys.agent, headers=headers, json=body).json()
    assert [found["metadata"] for found in (one, *listed["data"], changed)] == [{"topic": "tea"}] * 3


def test_neither_a_name_nor_the_beginning_of_an_id_opens_a_conversation(keyed: KeyedService) -> None:
    name = f"n{uuid.uuid4()}"
    id = keyed.store.for_owner("ada").new(name=name).id
    for reference in (name, id[:8]):
        for method, body in (("GET", None), ("POST", {"metadata": {}}), ("DELETE", None)):
            answer = keyed.running.ask(method, f"/v1/conversations/{reference}", key=keyed.keys.ada, json=body)
            assert answer.status_code == 404


def test_models_are_those_of_the_upstream(keyed: KeyedService, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["test-model"]
    client.close()


def test_nothing_of_a_client_but_its_wish_reaches_the_upstream(keyed: KeyedService) -> None:
    headers = {"Cookie": "session=secret", "X-Secret": "secret", "Proxy-Authorization": "Basic c2VjcmV0"}
    answer = keyed.running.ask("GET", "/v1/models?secret=secret", key=keyed.keys.ada, headers=headers)
    assert answer.status_code == 200
    sent = keyed.upstream.requests[-1]
    assert sent.path == "/v1/models"
    assert sent.headers["authorization"] == "Bearer sk-upstream"
    everything = json.dumps(sent.headers)
    assert "secret" not in everything
    assert keyed.keys.ada not in everything
    assert "cookie" not in sent.headers
    assert "sk-upstream" not in answer.text + str(answer.headers)
