"""`POST /v1/chat/completions` over HTTP: unchanged clients, exact bytes, headers, errors, ends of connections."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest

from convstore import Store
from convstore.testing import ChatServer, Drop, Failure, Raw, Reply
from convstore.turns import recorded_call
from convstore.values.results import Turn, TurnStatus
from tests.processes import PATIENCE
from tests.server.running import RunningService, serving

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def service(sqlite_url: str, chat_server: ChatServer) -> Iterator[RunningService]:
    with serving(sqlite_url, "--upstream", chat_server.url, OPENAI_API_KEY="upstream-secret") as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with make_client(service) as made:
        yield made


def make_client(service: RunningService, **options: Any) -> openai.OpenAI:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", http_client=http_client, **options)


def read_turns(url: str) -> list[Turn]:
    with Store(url) as store:
        return [turn for one in store.list() for turn in store.turns(one.id)]


def wait_for_turn(url: str, status: TurnStatus) -> Turn:
    """Return the only turn, when it has this status."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        turns = read_turns(url)
        if turns and turns[0].status is status:
            return turns[0]
        time.sleep(0.05)
    raise AssertionError((status, read_turns(url)))


def test_the_official_client_talks_and_all_is_stored_once(client: openai.OpenAI, sqlite_url: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "S"}]
    for text in ("a", "b"):
        messages.append({"role": "user", "content": text})
        messages.append(client.chat.completions.create(model="m", messages=messages).choices[0].message)
    messages.append({"role": "user", "content": "c"})
    stream = client.chat.completions.create(model="m", messages=messages, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    with Store(sqlite_url) as store:
        (conversation,) = store.list()
        said = [(record.message["role"], record.message["content"]) for record in store.messages(conversation.id)]
    assert said == [
        ("system", "S"),
        ("user", "a"),
        ("assistant", "You said: a"),
        ("user", "b"),
        ("assistant", "You said: b"),
        ("user", "c"),
        ("assistant", text),
    ]
    assert text == "You said: c"


def test_the_official_async_client_talks(service: RunningService, sqlite_url: str) -> None:
    async def talk() -> str:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", http_client=http_client) as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "a"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert asyncio.run(talk()) == "You said: a"
    assert [turn.text for turn in read_turns(sqlite_url)] == ["You said: a"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_has_the_bytes_of_the_upstream(
    service: RunningService, chat_server: ChatServer, *, stream: bool
) -> None:
    chat_server.script(*[Reply("Hello, wörld", message={"odd": [1, {"a": None}]}, id="same") for _ in range(2)])
    body = {**ASK, "stream": stream, "n": 1, "vendor": {"x": [1]}}
    direct = httpx.post(f"{chat_server.url}/chat/completions", json=body, trust_env=False)
    passed = service.ask("POST", PATH, json=body)
    clean = [line for line in direct.content.split(b"\n") if b'"created"' not in line]
    assert [line for line in passed.content.split(b"\n") if b'"created"' not in line] == clean
    assert passed.headers["content-type"] == direct.headers["content-type"]
    assert chat_server.requests[0].body == chat_server.requests[1].body


def test_nothing_of_the_client_goes_upstream_but_its_body(service: RunningService, chat_server: ChatServer) -> None:
    sent = {"Cookie": "a=b", "X-Secret": "x", "OpenAI-Organization": "evil", "Authorization": "Bearer client-key"}
    service.ask("POST", PATH, json=ASK, headers=sent)
    received = {name.lower(): value for name, value in chat_server.requests[0].headers.items()}
    assert received["authorization"] == "Bearer upstream-secret"
    assert not {"cookie", "x-secret", "openai-organization"} & received.keys()


def test_the_answer_names_the_conversation_and_the_turn(service: RunningService, sqlite_url: str) -> None:
    answer = service.ask("POST", PATH, json=ASK)
    with Store(sqlite_url) as store:
        (conversation,) = store.list()
    assert answer.headers["x-convstore-conversation-id"] == conversation.id
    assert answer.headers["x-convstore-turn"] == "1"


def test_an_error_of_the_upstream_passes_and_is_a_failed_turn(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    chat_server.script(Failure(429, message="slow down", retry_after=7))
    answer = service.ask("POST", PATH, json=ASK)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["message"] == "slow down"
    (turn,) = read_turns(sqlite_url)
    assert turn.status is TurnStatus.FAILED
    assert (turn.error or {})["status"] == 429


@pytest.mark.parametrize("what", ["nothing there", "drops"])
def test_an_upstream_that_cannot_be_reached_is_502(sqlite_url: str, chat_server: ChatServer, what: str) -> None:
    upstream = "http://127.0.0.1:9/v1" if what == "nothing there" else chat_server.url
    chat_server.script(Drop())
    with serving(sqlite_url, "--upstream", upstream) as service:
        answer = service.ask("POST", PATH, json=ASK)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    assert [turn.status for turn in read_turns(sqlite_url)] == [TurnStatus.FAILED]


def test_an_answer_that_is_no_completion_passes_as_it_is(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    chat_server.script(Raw(b"<html>", content_type="text/html"))
    answer = service.ask("POST", PATH, json=ASK)
    assert (answer.content, answer.headers["content-type"]) == (b"<html>", "text/html")
    assert [turn.status for turn in read_turns(sqlite_url)] == [TurnStatus.FAILED]


def make_events(*texts: str) -> bytes:
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*chunks, end])


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "said", "status"),
    [
        (b"\xef\xbb\xbf" + make_events("a", "b") + DONE, "ab", TurnStatus.COMPLETED),
        (b"data: ping\n\ndata:\n\n" + make_events("a", "b") + DONE, "ab", TurnStatus.COMPLETED),
        (make_events("a") + DONE + make_events("z"), "a", TurnStatus.COMPLETED),
        (make_events("a [DONE] b").replace(b"\n", b"\r\n") + DONE, "a [DONE] b", TurnStatus.COMPLETED),
        (make_events("a", "b")[:-70], "ab", TurnStatus.INTERRUPTED),
        (make_events("a")[:-70] + b'data: {"error": {"message": "x"}}\n\n', "a", TurnStatus.INTERRUPTED),
    ],
    ids=[
        "a mark of the order of bytes",
        "events that are no JSON",
        "after the end",
        "the mark in a text",
        "cut",
        "an error",
    ],
)
def test_a_strange_stream_passes_and_is_recorded(
    service: RunningService,
    chat_server: ChatServer,
    sqlite_url: str,
    body: bytes,
    said: str,
    status: TurnStatus,
) -> None:
    chat_server.script(Raw(body, content_type="text/event-stream"))
    answer = service.ask("POST", PATH, json={**ASK, "stream": True})
    assert answer.content == body
    (turn,) = read_turns(sqlite_url)
    assert (turn.text, turn.status) == (said, status)


def test_a_stream_that_breaks_in_an_event_ends_with_an_error_of_its_own(
    service: RunningService, chat_server: ChatServer
) -> None:
    chat_server.script(Reply("one two three", pieces=["one", " two", " three"], cut_after=2))
    answer = service.ask("POST", PATH, json={**ASK, "stream": True})
    last = [event for event in answer.text.split("\n\n") if event][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_failed"
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("body", [{"model": ["m"]}, {"model": 7}, {"stream": True, "stream_options": "x"}], ids=str)
def test_a_parameter_of_the_wrong_kind_is_400(service: RunningService, body: dict[str, Any]) -> None:
    for path in (PATH, f"{PATH}?mode=stateful"):
        assert service.ask("POST", path, json={**ASK, **body}).status_code == 400


def test_a_key_that_the_upstream_shows_is_hidden(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    chat_server.script(Failure(401, message="wrong key: upstream-secret"))
    answer = service.ask("POST", PATH, json=ASK)
    assert answer.json()["error"]["message"] == "wrong key: [key]"
    assert "upstream-secret" not in str(read_turns(sqlite_url))


def test_a_user_that_is_a_number_is_a_user_too(service: RunningService, sqlite_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    messages.append(
        service.ask("POST", PATH, json={**ASK, "messages": messages, "user": 5}).json()["choices"][0]["message"]
    )
    messages.append({"role": "user", "content": "b"})
    for user in (6, 5):
        service.ask("POST", PATH, json={**ASK, "messages": messages, "user": user})
    with Store(sqlite_url) as store:
        assert sorted(one.length for one in store.list()) == [4, 4]


def test_a_request_with_store_false_is_not_recorded(client: openai.OpenAI, sqlite_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    assert client.chat.completions.create(model="m", messages=messages, store=False).choices[0].message.content
    assert read_turns(sqlite_url) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role"),
        ({"model": "m", "messages": ["x"]}, "messages[0].role"),
        ({**ASK, "conversation": 7}, "conversation"),
    ],
)
def test_a_request_that_cannot_be_stored_is_refused(
    service: RunningService, chat_server: ChatServer, body: dict[str, Any], param: str
) -> None:
    answer = service.ask("POST", PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert chat_server.requests == []


def test_an_unknown_conversation_in_the_body_is_404(service: RunningService) -> None:
    assert service.ask("POST", PATH, json={**ASK, "metadata": {"conversation_id": "none"}}).status_code == 404


def test_a_named_conversation_with_a_running_turn_is_locked(sqlite_url: str, chat_server: ChatServer) -> None:
    hold = threading.Event()
    chat_server.script(Reply("slow", hold=hold, hold_after=0))
    named = {"X-Conversation-Id": "c"}
    with serving(sqlite_url, "--upstream", chat_server.url, "--wait", "0.1") as service:
        first = threading.Thread(target=service.ask, args=("POST", PATH), kwargs={"json": ASK, "headers": named})
        first.start()
        assert chat_server.wait_requests(1)
        answer = service.ask("POST", PATH, json=ASK, headers=named)
        hold.set()
        first.join()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "conversation_locked")


def test_a_reply_is_finished_when_its_client_leaves(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    hold = threading.Event()
    chat_server.script(Reply("one two three", pieces=["one", " two", " three"], hold=hold, hold_after=1))
    leave_in_the_middle(service)
    hold.set()
    assert wait_for_turn(sqlite_url, TurnStatus.COMPLETED).text == "one two three"


def test_a_reply_is_stopped_when_its_client_leaves_if_the_service_is_told_so(
    sqlite_url: str, chat_server: ChatServer
) -> None:
    hold = threading.Event()
    chat_server.script(Reply("one two", pieces=["one", " two"], hold=hold, hold_after=1))
    with serving(sqlite_url, "--upstream", chat_server.url, "--on-disconnect", "stop") as service:
        leave_in_the_middle(service)
        turn = wait_for_turn(sqlite_url, TurnStatus.INTERRUPTED)
        hold.set()
    assert turn.text == "one"


def leave_in_the_middle(service: RunningService) -> None:
    """Ask for a stream, and leave after its first text."""
    body = json.dumps({**ASK, "stream": True}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with service.connect() as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        received = b""
        while b"one" not in received:
            received += connection.recv(4096)


def test_what_came_of_a_reply_is_kept_when_the_service_is_killed(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    hold = threading.Event()
    chat_server.script(Reply("one two", pieces=["one", " two"], hold=hold, hold_after=1))
    leave_in_the_middle(service)
    with Store(sqlite_url) as store:
        (conversation,) = store.list()
        assert next(iter(store.follow(conversation.id))) == "one"  # its delta is stored
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(PATIENCE)
        hold.set()
        store.append(conversation.id, "next")
        (turn, *_) = store.turns(conversation.id)
    assert (turn.status, turn.text) == (TurnStatus.INTERRUPTED, "one")


def test_the_next_request_finds_the_reply_of_a_stream_at_once(client: openai.OpenAI, sqlite_url: str) -> None:
    messages: list[Any] = []
    for number in range(20):
        messages.append({"role": "user", "content": str(number)})
        stream = client.chat.completions.create(model="m", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        messages.append({"role": "assistant", "content": text})
    with Store(sqlite_url) as store:
        (conversation,) = store.list()  # no fork was needed
        assert store.get(conversation.id).length == 40


def test_a_lost_answer_that_the_official_client_asks_for_again_is_stored_once(
    service: RunningService, chat_server: ChatServer, sqlite_url: str
) -> None:
    answers = [service.ask("POST", PATH, json=ASK, headers={"x-stainless-retry-count": count}) for count in "01"]
    first, second = (answer.json() for answer in answers)
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    assert (first["id"], first["created"], first["usage"]) == (second["id"], second["created"], second["usage"])
    assert len(read_turns(sqlite_url)) == 1
    assert len(chat_server.requests) == 1


def test_a_repetition_gets_all_choices(service: RunningService, chat_server: ChatServer) -> None:
    body = {**ASK, "n": 2}
    first, second = (service.ask("POST", PATH, json=body, headers={"Idempotency-Key": "k"}).json() for _ in "ab")
    assert len(first["choices"]) == 2
    assert [one["message"] for one in first["choices"]] == [one["message"] for one in second["choices"]]
    assert len(chat_server.requests) == 1


def test_a_repeated_stream_comes_from_its_start(service: RunningService, client: openai.OpenAI) -> None:
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    service.ask("POST", PATH, json=body, headers={"Idempotency-Key": "k"})
    again = service.ask("POST", PATH, json=body, headers={"Idempotency-Key": "k"})
    events = [line.removeprefix("data: ") for line in again.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [openai.types.chat.ChatCompletionChunk.model_validate(json.loads(event)) for event in events[:-1]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: Hi"
    assert chunks[-1].usage is not None
    other = service.ask("POST", PATH, json={**body, "seed": 1}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


@pytest.mark.parametrize("how", ["query", "header", "conversation"])
def test_a_client_may_send_what_is_new_alone(
    service: RunningService, chat_server: ChatServer, sqlite_url: str, how: str
) -> None:
    with Store(sqlite_url) as store:
        id = store.new(system="S", last=10).id
    for text in ("a", "b"):
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": text == "b"}
        headers = {"X-Conversation-Id": id}
        if how == "conversation":
            body, headers = {**body, "conversation": {"id": id}}, {}
        elif how == "header":
            headers["X-Convstore-Mode"] = "stateful"
        answer = service.ask("POST", PATH + ("?mode=stateful" if how == "query" else ""), json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    assert [one["content"] for one in chat_server.requests[1].body["messages"]] == ["S", "a", "You said: a", "b"]
    assert "conversation" not in chat_server.requests[1].body
    with Store(sqlite_url) as store:
        assert [one.message["content"] for one in store.messages(id)] == ["S", "a", "You said: a", "b", "You said: b"]


def test_a_stateful_request_that_is_sent_again_is_stored_once(service: RunningService, chat_server: ChatServer) -> None:
    headers = {"X-Conversation-Id": "c", "Idempotency-Key": "once"}
    answers = [service.ask("POST", f"{PATH}?mode=stateful", json=ASK, headers=headers) for _ in range(2)]
    first, second = (answer.json()["choices"][0] for answer in answers)
    assert first["message"] == second["message"]
    assert len(chat_server.requests) == 1
    assert service.ask("POST", f"{PATH}?mode=other", json=ASK).status_code == 400


def test_a_title_that_a_page_asks_for_is_kept_apart(service: RunningService, sqlite_url: str) -> None:
    service.ask("POST", PATH, json=ASK, headers={"X-OpenWebUI-Chat-Id": "chat-1"})
    task = {"role": "user", "content": "### Task:\nGenerate a concise, 3-5 word title\n### Chat History:\nHi"}
    service.ask("POST", PATH, json={**ASK, "messages": [task]}, headers={"X-OpenWebUI-Chat-Id": "chat-1"})
    with Store(sqlite_url) as store:
        assert [one.id for one in store.list()] == ["chat-1"]
        assert store.get("chat-1").length == 2
        (apart,) = store.list(archived=True)
        assert apart.metadata == {"side_request": "chat-1"}


def test_embeddings_pass_only_if_the_service_is_told_so(sqlite_url: str, chat_server: ChatServer) -> None:
    body = {"model": "m", "input": "x"}
    with serving(sqlite_url, "--upstream", chat_server.url) as service:
        assert service.ask("POST", "/v1/embeddings", json=body).status_code == 404
    with serving(sqlite_url, "--upstream", chat_server.url, "--pass", "embeddings") as service:
        service.ask("POST", "/v1/embeddings", json=body)
    assert chat_server.requests[-1].path.endswith("/embeddings")
    assert read_turns(sqlite_url) == []


@pytest.mark.parametrize(
    ("received", "held"),
    [
        (b'data: {"a": 1}\n\n', b""),
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', b"data: [DONE]\n\n"),
        (b"data: [DONE]\n", b"data: [DONE]\n"),
        (b'{"a": 1}\n\ndata: [DO', b"data: [DO"),
        (b"x\n\nda", b"da"),
        (b'data: {"a": "[DONE]"}\n\n', b""),
        (b"data:[DONE]\r\n\r\n", b"data:[DONE]\r\n\r\n"),
        (b"", b""),
    ],
)
def test_what_may_be_the_end_of_a_stream_is_held_back(received: bytes, held: bytes) -> None:
    assert received[recorded_call._find_end(received) :] == held
