"""Test `append`: add messages without a model call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage, ChatCompletionUserMessageParam

from convstore import ConversationBusy, InvalidMessage, Store, TurnStatus
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import HARD_TEXTS, ON_ALL_BACKENDS, ON_THREE_BACKENDS, HeldReply

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer briefly.", "name": "boss"},
    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": "What is it?", "name": "ann"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look."},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "[]"},
    {"role": "assistant", "content": None, "refusal": "I cannot."},
    {"role": "assistant", "content": None, "audio": {"id": "a1", "data": "AA==", "expires_at": 1, "transcript": "t"}},
    {"role": "assistant", "content": "x", "annotations": [], "reasoning_content": "hm", "vendor": {"b": 1, "a": [1.5]}},
    {"role": "function", "name": "f", "content": None},
    {"role": "assistant", "content": ""},
    {"role": "critic", "content": {"unheard": "of"}, "content2": [None, True, 10**30, -0.5, ""]},
    {"role": "user", "name": None, "content": None},
    {"role": "r" * 300},
]


@ON_ALL_BACKENDS
def test_append_stores_every_message_exactly(store: Store) -> None:
    id = store.new().id
    for message in MESSAGES:
        (record,) = store.append(id, message)
        assert record.message == message
    assert store.history(id, exact=True) == MESSAGES
    assert [record.message for record in store.messages(id)] == MESSAGES
    assert [list(record.message) for record in store.messages(id)][2] == ["role", "name", "content"]


def test_append_adds_several_messages_in_order(store: Store) -> None:
    one, other = store.new().id, store.new().id
    records = store.append(one, *MESSAGES)
    for message in MESSAGES:
        store.append(other, message)
    assert [record.seq for record in records] == list(range(1, len(MESSAGES) + 1))
    assert [record.position for record in records] == list(range(1, len(MESSAGES) + 1))
    assert [record.message for record in records] == MESSAGES
    assert store.messages(one) == records
    assert [record.digest for record in records] == [record.digest for record in store.messages(other)]
    assert store.get(one).length == len(MESSAGES)


def test_append_returns_the_records_that_are_read_later(store: Store) -> None:
    id = store.new(system="s").id
    records = store.append(id, "one", {"role": "assistant", "content": "two"})
    assert store.messages(id, limit=2) == records
    assert [(r.position, r.seq, r.parent_seq, r.turn, r.context_seq) for r in records] == [
        (2, 2, 1, None, 1),
        (3, 3, 2, None, 1),
    ]


def test_append_makes_user_messages_of_text_and_parts(store: Store) -> None:
    id = store.new().id
    parts = [{"type": "text", "text": "two"}]
    store.append(id, "one", parts)
    store.append(id, [{"role": "user", "content": "three"}, {"role": "assistant", "content": "four"}])
    assert store.history(id) == [
        {"role": "user", "content": "one"},
        {"role": "user", "content": parts},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]


def test_append_stores_only_the_fields_that_an_openai_message_sets(store: Store) -> None:
    id = store.new().id
    param: ChatCompletionUserMessageParam = {"role": "user", "content": "hi", "name": "ann"}
    store.append(id, ChatCompletionMessage(role="assistant", content="hello"))
    store.append(id, ChatCompletionMessage.model_validate({"role": "assistant", "content": "x", "vendor": 1}))
    store.append(id, param)
    assert store.history(id, exact=True) == [
        {"role": "assistant", "content": "hello"},
        {"role": "assistant", "content": "x", "vendor": 1},
        {"role": "user", "content": "hi", "name": "ann"},
    ]


USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5},
    "vendor_cost": 0.25,
}


def _request_completion(client: openai.OpenAI, server: ChatServer, **reply: Any) -> Any:
    server.script(Reply("hello", usage=USAGE, id="resp-1", model="served-model", **reply))
    return client.chat.completions.create(model="asked", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("form", ["object", "dict"])
@ON_ALL_BACKENDS
def test_append_stores_a_completion_as_a_message_and_a_turn(
    store: Store, client: openai.OpenAI, chat_server: ChatServer, form: str
) -> None:
    completion = _request_completion(client, chat_server)
    id = store.new().id
    store.append(id, "hi")
    (record,) = store.append(id, completion if form == "object" else completion.model_dump())
    assert record.message["content"] == "hello"
    (turn,) = store.turns(id)
    assert (record.turn, turn.seq, turn.output_seq, turn.base_seq) == (1, 1, 2, 1)
    assert (turn.status, turn.finish_reason, turn.text) == (TurnStatus.COMPLETED, "stop", "hello")
    assert (turn.response_id, turn.model, turn.system_fingerprint) == ("resp-1", "served-model", "fp_test")
    assert turn.usage is not None
    assert (turn.usage.prompt_tokens, turn.usage.completion_tokens, turn.usage.total_tokens) == (20, 7, 27)
    assert (turn.usage.cached_tokens, turn.usage.reasoning_tokens) == (12, 5)
    assert turn.usage["vendor_cost"] == 0.25
    assert (turn.first_input_seq, turn.latency, turn.error) == (None, None, None)
    assert store.say(id, "again").seq == 2


def test_the_loop_of_the_specification_works_with_append(
    store: Store, client: openai.OpenAI, chat_server: ChatServer
) -> None:
    id = store.new(system="s").id
    for question in ("one", "two"):
        store.append(id, {"role": "user", "content": question})
        completion = client.chat.completions.create(model="m", messages=store.history(id))  # type: ignore[arg-type]
        store.append(id, completion)
    assert [message["content"] for message in chat_server.requests[-1].body["messages"]] == [
        "s",
        "one",
        "You said: one",
        "two",
    ]
    assert [turn.base_seq for turn in store.turns(id)] == [2, 4]


def test_append_refuses_an_invalid_message_and_stores_nothing(
    store: Store, client: openai.OpenAI, chat_server: ChatServer
) -> None:
    made = store.new(system="s")
    completion = _request_completion(client, chat_server)
    wrongs: list[Any] = [
        "",
        " \n",
        None,
        5,
        b"bytes",
        object(),
        [],
        {},
        {"content": "no role"},
        {"role": None},
        {"role": ""},
        {"role": 5, "content": "x"},
        {"role": "user", "content": object()},
        {"role": "user", "content": float("inf")},
        {"role": "user", 5: "x"},
        ["text", "text"],
        [{"role": "user", "content": "x"}, {"type": "text", "text": "x"}],
        {"choices": []},
        {"choices": [{"index": 0}]},
        {"choices": "x"},
        {"role": "user", "content": 10**5000},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidMessage):
            store.append(made.id, wrong)
        with pytest.raises(InvalidMessage):
            store.append(made.id, "good", wrong)
    with pytest.raises(InvalidMessage, match="append it in a call of its own"):
        store.append(made.id, completion, "more")
    with pytest.raises(InvalidMessage, match="append it in a call of its own"):
        store.append(made.id, "first", completion)
    assert store.get(made.id) == made
    assert len(store.messages(made.id)) == 1
    assert store.turns(made.id) == []


def test_append_stores_hard_texts_exactly(store: Store) -> None:
    id = store.new().id
    given = [
        {"role": "user", "content": hard, "name": hard, hard: {hard: [hard]}} for hard in HARD_TEXTS if hard.strip()
    ]
    store.append(id, *given)
    assert store.history(id, exact=True) == given
    for hard in HARD_TEXTS:
        store.append(id, {"role": hard or "x", "content": [{"type": "text", "text": hard}]})
    assert [message["role"] for message in store.history(id, exact=True)[len(given) :]] == list(HARD_TEXTS)


def test_append_joins_the_halves_of_a_split_character(store: Store) -> None:
    id = store.new().id
    store.append(id, "\ud83d\ude00")
    assert [message["content"].encode("utf-16", "surrogatepass") for message in store.history(id, exact=True)] == [
        "😀".encode("utf-16")
    ]
    assert store.history(id) == [{"role": "user", "content": "😀"}]


@ON_THREE_BACKENDS
def test_append_stores_a_message_of_five_megabytes(store: Store) -> None:
    id = store.new().id
    text = "会話 of 12 bytes " * 320_000
    assert len(text.encode()) > 5_000_000
    store.append(id, text, {"role": "assistant", "content": [{"type": "text", "text": text + "\0"}]})
    first, second = store.history(id, exact=True)
    assert first["content"] == text
    assert second["content"][0]["text"] == text + "\0"


@ON_ALL_BACKENDS
def test_append_waits_for_a_running_turn_or_raises_conversation_busy(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    id = store.new().id
    held = hold("answer")
    said = run_in_thread(lambda: store.say(id, "question"))
    held.wait()
    with pytest.raises(ConversationBusy, match=id):
        store.append(id, "in between", wait=0)
    appended = run_in_thread(lambda: store.append(id, "afterwards"))
    held.release()
    said.result(60)
    assert appended.result(60)[0].position == 3
    assert [message["content"] for message in store.history(id)] == ["question", "answer", "afterwards"]
