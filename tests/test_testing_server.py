"""Test the scriptable server with the real ``openai`` client."""

from __future__ import annotations

import ast
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

import convstore.testing
from convstore.testing import ChatServer, Drop, Failure, Raw, Reply, Request, Response
from convstore.testing.completions import Answer, answer_to

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
E = TypeVar("E", bound=Exception)
TOOL_MESSAGE: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I should look at the weather.",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "上海", "days": 3}'},
        },
        {"id": "call_2", "type": "custom", "custom": {"name": "note", "input": "some free text"}},
    ],
}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


@pytest.fixture
def client(server: ChatServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="x", max_retries=0, timeout=10) as client:
        yield client


def ask(client: openai.OpenAI, **parameters: Any) -> ChatCompletion:
    completion = client.chat.completions.create(model="m", messages=HI, **parameters)
    assert isinstance(completion, ChatCompletion)
    return completion


def stream(client: openai.OpenAI, **parameters: Any) -> openai.Stream[ChatCompletionChunk]:
    chunks = client.chat.completions.create(model="m", messages=HI, stream=True, **parameters)
    assert isinstance(chunks, openai.Stream)
    return chunks


def told(chunks: Sequence[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def stream_until(client: openai.OpenAI, kind: type[E]) -> tuple[str, E]:
    """Return the pieces of a stream before its failure, and the failure."""
    chunks: list[ChatCompletionChunk] = []
    source = stream(client)
    with pytest.raises(kind) as caught:
        chunks.extend(source)  # the pieces before the failure stay in the list
    return told(chunks), caught.value


def address(server: ChatServer) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    return host, int(port)


def exchange(
    server: ChatServer, method: str, path: str, body: bytes | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send one request without the openai client."""
    connection = http.client.HTTPConnection(*address(server), timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def sse(server: ChatServer, response: Response, **parameters: Any) -> str:
    """Return the bytes of a stream as they come over the network."""
    server.script(response)
    body = json.dumps({"model": "m", "messages": HI, "stream": True, **parameters}).encode()
    return exchange(server, "POST", "/v1/chat/completions", body)[1].decode()


# Requests and the script


def test_without_a_script_the_last_user_text_is_echoed(client: openai.OpenAI) -> None:
    assert ask(client).choices[0].message.content == "You said: hi"
    parts: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "no"},
    ]
    completion = client.chat.completions.create(model="m", messages=parts)
    assert completion.choices[0].message.content == "You said: ab"


def test_scripted_responses_come_in_order_and_then_otherwise_answers(server: ChatServer, client: openai.OpenAI) -> None:
    server.script(Reply("one"), Reply("two"))
    server.otherwise = lambda body: Reply(f"otherwise {body['model']}")
    assert [ask(client).choices[0].message.content for _ in range(3)] == ["one", "two", "otherwise m"]


def test_requests_are_recorded_with_headers_in_lower_case(server: ChatServer, client: openai.OpenAI) -> None:
    ask(client, temperature=0.5)
    (request,) = server.requests
    assert isinstance(request, Request)
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer x"
    assert request.body == {"model": "m", "messages": HI, "temperature": 0.5}


def test_many_clients_at_once_each_get_one_scripted_response(server: ChatServer) -> None:
    server.script(*(Reply(str(number)) for number in range(40)))

    def call(_: int) -> str | None:
        with openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
            return ask(client).choices[0].message.content

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(40)))
    assert sorted(answers, key=str) == sorted(map(str, range(40)))
    assert len(server.requests) == 40


def test_waiting_for_requests_ends_when_they_have_arrived(server: ChatServer, client: openai.OpenAI) -> None:
    assert not server.wait_requests(1, timeout=0)
    ask(client)
    assert server.wait_requests(1, timeout=0)
    assert not server.wait_requests(2, timeout=0)


def test_models_lists_the_test_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["test-model"]


def test_an_unknown_path_is_not_found_and_uses_no_response_of_the_script(
    server: ChatServer, client: openai.OpenAI
) -> None:
    server.script(Reply("kept"))
    with pytest.raises(openai.NotFoundError, match=r"POST /v1/embeddings"):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.NotFoundError, match=r"DELETE /v1/models/x"):
        client.models.delete("x")
    assert ask(client).choices[0].message.content == "kept"
    assert server.requests[0].path == "/v1/embeddings"


@pytest.mark.parametrize("body", [b"{not json", b"[]", b"", b"\xff"])
def test_a_request_that_is_not_a_json_object_is_refused_and_recorded_as_empty(server: ChatServer, body: bytes) -> None:
    server.script(Reply("kept"))
    response, data = exchange(server, "POST", "/v1/chat/completions", body)
    assert response.status == 400
    assert json.loads(data)["error"]["type"] == "invalid_request_error"
    assert server.requests[0].body == {}


def test_an_error_in_otherwise_is_printed_not_hidden(
    server: ChatServer, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(body: dict[str, Any]) -> Response:
        raise LookupError("a mistake in the test")

    server.otherwise = wrong
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    server.close()
    assert "a mistake in the test" in capsys.readouterr().err


# Replies


def test_a_reply_has_every_field_of_a_completion(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply("Hello there"))
    completion = ask(client)
    assert completion.id == "chatcmpl-test-1"
    assert completion.model == "m"
    assert completion.system_fingerprint == "fp_test"
    assert completion._request_id == "req_test_1"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": 1,
        "completion_tokens": 3,
        "total_tokens": 4,
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_reply_has_the_given_values(client: openai.OpenAI, server: ChatServer, *, streaming: bool) -> None:
    server.script(Reply("x", id="a", model="b", system_fingerprint=None, finish_reason="length"))
    reply = list(stream(client))[-1] if streaming else ask(client)
    assert (reply.id, reply.model, reply.system_fingerprint) == ("a", "b", None)
    assert reply.choices[0].finish_reason == "length"


def test_a_stream_splits_the_text_and_loses_nothing(client: openai.OpenAI, server: ChatServer) -> None:
    text = "  Zwölf 👩‍👩‍👧 Boxkämpfer\r\n\n\x00 data: [DONE]\u2028end " * 40
    server.script(Reply(text))
    chunks = list(stream(client))
    assert told(chunks) == text
    assert len(chunks) > 100
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-2:] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_pieces_are_the_deltas_of_a_stream_and_the_text_of_a_whole_reply(
    client: openai.OpenAI, server: ChatServer
) -> None:
    reply = Reply(pieces=["Hel", "", "lo"])
    server.script(reply, reply)
    deltas = [chunk.choices[0].delta.content for chunk in stream(client)]
    assert deltas == ["", "Hel", "", "lo", None]
    assert ask(client).choices[0].message.content == "Hello"


def test_pieces_that_do_not_make_up_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="do not make up"):
        Reply("Hello", pieces=["Hel"])
    with pytest.raises(ValueError, match="do not make up"):
        Reply(message={"role": "assistant", "content": None}, pieces=["Hel"])
    Reply("😀", pieces=["\ud83d", "\ude00"])


def test_lone_surrogates_are_sent(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply("a\ud83d"), Reply("😀", pieces=["\ud83d", "\ude00"]))
    assert ask(client).choices[0].message.content == "a\ud83d"
    assert told(list(stream(client))) == "\ud83d\ude00"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_reply_may_have_no_content(client: openai.OpenAI, server: ChatServer, *, streaming: bool) -> None:
    server.script(Reply(None))
    if streaming:
        assert [chunk.choices[0].delta.content for chunk in stream(client)] == [None, None]
    else:
        assert ask(client).choices[0].message.content is None


def test_a_complete_message_is_sent_as_it_is(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply(message=TOOL_MESSAGE, finish_reason="tool_calls"))
    assert ask(client).choices[0].message.model_dump(exclude_unset=True) == TOOL_MESSAGE


def test_a_message_with_tool_calls_is_streamed_as_openai_streams_it(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply(message=TOOL_MESSAGE, finish_reason="tool_calls"))
    chunks = list(stream(client))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].model_dump(exclude_unset=True) == {"role": "assistant", "content": None}
    reasoning = [delta.model_extra["reasoning_content"] for delta in deltas if delta.model_extra]
    assert len(reasoning) > 1
    assert "".join(reasoning) == TOOL_MESSAGE["reasoning_content"]
    calls = [call.model_dump(exclude_unset=True) for delta in deltas for call in delta.tool_calls or []]
    first, *rest = [call for call in calls if call["index"] == 0]
    weather = TOOL_MESSAGE["tool_calls"][0]
    assert first == {"index": 0, **weather, "function": {"name": "weather", "arguments": ""}}
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in rest)
    assert len(rest) > 1
    assert "".join(call["function"]["arguments"] for call in rest) == weather["function"]["arguments"]
    notes = [call["custom"] for call in calls if call["index"] == 1]
    assert notes[0] == {"name": "note", "input": ""}
    assert "".join(note["input"] for note in notes) == "some free text"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_refusals_and_fields_other_than_text_are_streamed_too(client: openai.OpenAI, server: ChatServer) -> None:
    message = {
        "role": "assistant",
        "content": None,
        "refusal": "I cannot do that.",
        "vendor": {"deep": [1, None]},
    }
    server.script(Reply(message=message))
    deltas = [chunk.choices[0].delta for chunk in stream(client)]
    assert "".join(delta.refusal or "" for delta in deltas) == "I cannot do that."
    assert [delta.model_extra for delta in deltas if delta.model_extra] == [{"vendor": {"deep": [1, None]}}]


def test_a_legacy_function_call_is_streamed_in_fragments(client: openai.OpenAI, server: ChatServer) -> None:
    call = {"name": "f", "arguments": '{"a": 12345}'}
    server.script(Reply(message={"role": "assistant", "content": None, "function_call": call}))
    calls = [chunk.choices[0].delta.function_call for chunk in stream(client)]
    assert [part.name for part in calls if part and part.name] == ["f"]
    assert "".join(part.arguments or "" for part in calls if part) == call["arguments"]


def test_the_clients_own_accumulator_rebuilds_a_streamed_message(client: openai.OpenAI, server: ChatServer) -> None:
    message = {"role": "assistant", "content": "Hello there", "tool_calls": TOOL_MESSAGE["tool_calls"][:1]}
    server.script(Reply(message=message, finish_reason="tool_calls"))
    with client.chat.completions.stream(model="m", messages=HI) as events:
        final = events.get_final_completion().choices[0].message
    assert final.content == "Hello there"
    assert final.tool_calls is not None
    assert final.tool_calls[0].function.arguments == message["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize("streaming", [False, True])
def test_n_choices_are_numbered_and_equal(client: openai.OpenAI, server: ChatServer, *, streaming: bool) -> None:
    server.script(Reply("Hello there"))
    if streaming:
        chunks = list(stream(client, n=3))
        assert [told(chunks, index) for index in range(3)] == ["Hello there"] * 3
        finished = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        assert finished == [0, 1, 2]
    else:
        choices = ask(client, n=3).choices
        assert [(choice.index, choice.message.content) for choice in choices] == [
            (index, "Hello there") for index in range(3)
        ]


def test_choices_can_be_given_whole(client: openai.OpenAI, server: ChatServer) -> None:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "extra": 1,
        }
        for index, text in ((1, "one"), (0, "zero zero"))
    ]
    server.script(Reply(choices=choices), Reply(choices=choices), Reply(choices=[]), Reply(choices=[]))
    assert [choice.model_dump(exclude_unset=True) for choice in ask(client, n=7).choices] == choices
    chunks = list(stream(client))
    assert (told(chunks, 0), told(chunks, 1)) == ("zero zero", "one")
    assert chunks[-1].choices[0].model_extra == {"extra": 1}
    assert ask(client).choices == []
    assert list(stream(client)) == []


def test_chunks_can_be_given_whole(client: openai.OpenAI, server: ChatServer) -> None:
    given: list[dict[str, Any]] = [
        {"id": "odd", "choices": []},
        {"choices": [{"index": 4, "delta": {"content": "x"}}]},
    ]
    server.script(Reply(chunks=given))
    assert [chunk.model_dump(exclude_unset=True) for chunk in stream(client)] == given


@pytest.mark.parametrize(
    ("usage_chunk", "asked", "places"),
    [
        ("after", False, []),
        ("after", True, [-1]),
        ("before", True, [-2]),
        ("before", False, []),
        ("always", False, [-1]),
        ("always", True, [-1]),
        ("never", True, []),
    ],
)
def test_the_usage_of_a_stream_comes_at_the_chosen_place(
    client: openai.OpenAI, server: ChatServer, usage_chunk: Any, asked: bool, places: list[int]
) -> None:
    server.script(Reply("Hello", usage_chunk=usage_chunk))
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(stream(client, **options))
    found = [place - len(chunks) for place, chunk in enumerate(chunks) if chunk.usage is not None]
    assert found == places
    assert all(chunks[place].choices == [] for place in places)


def test_if_usage_is_requested_the_other_chunks_have_a_null(server: ChatServer) -> None:
    asked = sse(server, Reply("Hi"), stream_options={"include_usage": True})
    assert asked.count('"usage":null') == 3
    assert asked.count('"usage":{') == 1
    assert "usage" not in sse(server, Reply("Hi"))


def test_usage_can_be_given_or_left_out(client: openai.OpenAI, server: ChatServer) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15, "vendor_cost": 0.5}
    server.script(Reply(usage=usage), Reply(usage=None), Reply(usage=None))
    given = ask(client).usage
    assert given is not None
    assert given.model_dump(exclude_unset=True) == usage
    assert ask(client).usage is None
    chunks = stream(client, stream_options={"include_usage": True})
    assert [chunk.usage for chunk in chunks] == [None, None]


def test_keep_alives_stand_between_events(client: openai.OpenAI, server: ChatServer) -> None:
    events = sse(server, Reply("Hello", keep_alives=True)).split("\n\n")
    assert events[::2] == [": ping"] * 5 + [""]
    server.script(Reply("Hello", keep_alives=True))
    assert told(list(stream(client))) == "Hello"


def test_a_stream_can_lack_its_end_mark_or_its_finish(server: ChatServer) -> None:
    assert sse(server, Reply("Hello")).endswith("data: [DONE]\n\n")
    assert "[DONE]" not in sse(server, Reply("Hello", done=False))
    assert '"stop"' not in sse(server, Reply("Hello", finish_reason=None))


def test_a_delay_lies_between_pieces(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply(pieces=["a", "b", "c"], delay=0.03))
    begun = time.monotonic()
    assert told(list(stream(client))) == "abc"
    assert time.monotonic() - begun > 0.06


# Failures


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, openai.BadRequestError, "invalid"),
        (401, openai.AuthenticationError, "Incorrect API key"),
        (404, openai.NotFoundError, "model does not exist"),
        (418, openai.APIStatusError, "Teapot"),
        (429, openai.RateLimitError, "Rate limit"),
        (500, openai.InternalServerError, "server had an error"),
        (503, openai.InternalServerError, "overloaded"),
        (599, openai.InternalServerError, "Error 599"),
    ],
)
def test_a_failure_is_openais_error(
    client: openai.OpenAI,
    server: ChatServer,
    status: int,
    kind: type[Exception],
    words: str,
    *,
    streaming: bool,
) -> None:
    server.script(Failure(status))
    with pytest.raises(kind, match=words) as caught:
        _ = stream(client) if streaming else ask(client)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_a_failure_has_the_given_text(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(
        Failure(429, "Too long", type="t", code="context_length_exceeded", retry_after=1.5, headers={"X-A": "b"})
    )
    with pytest.raises(openai.RateLimitError, match="Too long") as caught:
        ask(client)
    assert (caught.value.type, caught.value.code) == ("t", "context_length_exceeded")
    assert caught.value.response.headers["retry-after"] == "1.5"
    assert caught.value.response.headers["x-a"] == "b"


def test_raw_bodies_are_sent_unchanged(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Raw("not json"), Raw(b"<html>", 502, "text/html"), Raw("<html>", content_type="text/html"))
    with pytest.raises(json.JSONDecodeError):
        ask(client)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.body == "<html>"
    # The client returns a page as a text: its declared type is wrong.
    page: object = client.chat.completions.create(model="m", messages=HI)
    assert page == "<html>"


def test_a_stream_of_raw_bytes_can_be_written_by_hand(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Raw('data: {"choices":[]}\n\ndata: [DONE]\n\n', content_type="text/event-stream"))
    assert len(list(stream(client))) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_a_drop_closes_without_a_byte(client: openai.OpenAI, server: ChatServer, *, streaming: bool) -> None:
    server.script(Drop())
    with pytest.raises(openai.APIConnectionError) as caught:
        _ = stream(client) if streaming else ask(client)
    assert "without sending a response" in str(caught.value.__cause__)
    assert ask(client).choices[0].message.content == "You said: hi"


def test_a_cut_whole_reply_breaks_the_connection(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply("Hello", cut_after=60))
    with pytest.raises(openai.APIConnectionError) as caught:
        ask(client)
    assert "received 60 bytes" in str(caught.value.__cause__)


def test_a_whole_reply_cut_cleanly_is_half_a_json_document(client: openai.OpenAI, server: ChatServer) -> None:
    server.script(Reply("Hello", cut_after=60, clean_cut=True))
    with pytest.raises(json.JSONDecodeError):
        ask(client)


def test_a_cut_stream_gives_the_part_before_the_cut_and_breaks(client: openai.OpenAI, server: ChatServer) -> None:
    events = sse(server, Reply("Hello there")).split("\n\n")
    sent = len("\n\n".join(events[:3])) + 2  # the opening and two pieces
    server.script(Reply("Hello there", cut_after=sent))
    text, error = stream_until(client, openai.APIConnectionError)
    assert text == "Hello th"
    assert "incomplete chunked read" in str(error.__cause__)


def test_a_stream_cut_cleanly_just_ends(client: openai.OpenAI, server: ChatServer) -> None:
    full = sse(server, Reply("Hello there"))
    server.script(Reply("Hello there", cut_after=len(full) // 2, clean_cut=True))
    chunks = list(stream(client))
    assert "Hello there".startswith(told(chunks))
    assert not any(choice.finish_reason for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("after", [0, 1, 250, 700, 10_000])
def test_a_cut_sends_exactly_the_given_number_of_bytes(server: ChatServer, after: int, *, clean: bool) -> None:
    full = sse(server, Reply("Hello there", id="same"))
    reply = Reply("Hello there", id="same", cut_after=after, clean_cut=clean)
    if clean or after > len(full):
        assert sse(server, reply) == full[:after]
    else:
        with pytest.raises(http.client.IncompleteRead) as caught:
            sse(server, reply)
        assert caught.value.partial.decode() == full[:after]


def test_an_error_event_comes_after_the_given_pieces_and_ends_the_stream(
    client: openai.OpenAI, server: ChatServer
) -> None:
    error = {"message": "Boom", "type": "server_error", "code": "x"}
    server.script(Reply("Hello there", error_event=error, error_after=2))
    text, failure = stream_until(client, openai.APIError)
    assert text == "Hello th"
    assert type(failure) is openai.APIError
    assert failure.body == error
    assert (
        sse(server, Reply("Hello", error_event=error))
        == "data: " + json.dumps({"error": error}, separators=(",", ":")) + "\n\n"
    )


def test_garbage_comes_after_the_given_pieces_and_the_stream_goes_on(client: openai.OpenAI, server: ChatServer) -> None:
    reply = Reply("Hello there", garbage="{not json", garbage_after=1)
    server.script(reply)
    text, _ = stream_until(client, json.JSONDecodeError)
    assert text == "Hell"
    events = sse(server, reply).split("\n\n")
    assert events[2] == "data: {not json"
    assert events[-2] == "data: [DONE]"


def test_counts_beyond_the_last_piece_mean_before_the_finish(server: ChatServer) -> None:
    events = sse(server, Reply("Hi", garbage="late", garbage_after=99)).split("\n\n")
    assert events[2] == "data: late"
    assert '"stop"' in events[3]
    assert '"stop"' not in sse(server, Reply("Hi", error_event={"message": "x"}, error_after=99))


# Holds, disconnects, the end


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hold_stops_before_the_first_byte(client: openai.OpenAI, server: ChatServer, *, streaming: bool) -> None:
    go, started = threading.Event(), threading.Event()
    server.script(Reply("Hello", hold=go, started=started))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: told(list(stream(client))) if streaming else ask(client))
        assert started.wait(5)
        assert server.wait_requests(1, timeout=0)
        assert not future.done()
        go.set()
        answer = future.result(5)
    assert answer == "Hello" if isinstance(answer, str) else answer.choices[0].message.content == "Hello"


@pytest.mark.parametrize("after", [1, 2, 3, 99])
@pytest.mark.parametrize("finish", ["stop", None])
def test_a_hold_stops_after_the_given_pieces(
    client: openai.OpenAI, server: ChatServer, after: int, finish: str | None
) -> None:
    go, started = threading.Event(), threading.Event()
    pieces = ["a", "b", "c"]
    reply = Reply(
        pieces=pieces,
        hold=go,
        hold_after=after,
        started=started,
        finish_reason=finish,
        done=finish is not None,
    )
    server.script(reply)
    chunks = stream(client)
    seen = [next(chunks) for _ in range(min(after, 3) + 1)]
    assert told(seen) == "abc"[:after]
    assert started.wait(5)
    go.set()
    assert told([*seen, *chunks]) == "abc"


def test_a_stream_held_after_its_last_piece_has_not_ended(client: openai.OpenAI, server: ChatServer) -> None:
    reply = Reply(pieces=["a"], finish_reason=None, done=False, hold=threading.Event(), hold_after=1)
    server.script(reply)
    chunks = stream(client)
    assert told([next(chunks), next(chunks)]) == "a"
    server.close()
    with pytest.raises(openai.APIConnectionError):
        next(chunks)


def test_a_reply_without_a_hold_also_sets_started(client: openai.OpenAI, server: ChatServer) -> None:
    started = threading.Event()
    server.script(Reply("Hello", started=started, hold_after=1))
    assert told(list(stream(client))) == "Hello"
    assert started.is_set()


def test_a_client_that_leaves_during_a_hold_is_noticed(client: openai.OpenAI, server: ChatServer) -> None:
    assert not server.wait_disconnect(0)
    server.script(Reply("Hello", hold=threading.Event(), hold_after=1))
    chunks = stream(client)
    next(chunks)
    assert server.disconnects == 0
    chunks.close()
    assert server.wait_disconnect(5)
    assert server.disconnects == 1
    assert ask(client).choices[0].message.content == "You said: hi"


def test_a_client_that_leaves_in_the_middle_of_a_stream_is_counted_and_nothing_is_printed(
    client: openai.OpenAI, server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script(Reply("Hello " * 20, delay=0.01), Reply(chunks=[{"choices": [], "pad": "x" * 100_000}] * 200))
    for number in (1, 2):
        chunks = stream(client)
        next(chunks)
        chunks.close()
        assert server.wait_disconnect(5, n=number)
    server.close()
    assert server.disconnects == 2
    assert capfd.readouterr() == ("", "")


def test_a_timeout_of_the_client_is_a_disconnect(server: ChatServer, client: openai.OpenAI) -> None:
    server.script(Reply("Hello", hold=threading.Event()))
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.05)
    assert server.wait_disconnect(5)


def test_many_requests_over_one_connection_are_not_disconnects(server: ChatServer, client: openai.OpenAI) -> None:
    for _ in range(20):
        ask(client)
        list(stream(client))
    client.close()
    server.close()
    assert server.disconnects == 0


def test_a_client_that_breaks_an_idle_connection_prints_nothing(
    server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(address(server)) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1)
        # Without lingering, the close is a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.wait_requests(1)
    server.close()
    assert capfd.readouterr() == ("", "")


def test_closing_ends_holds_and_connections_quickly_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    server = ChatServer()
    begun = [threading.Event() for _ in range(4)]
    never = threading.Event()
    server.script(*(Reply("Hello", hold=never, hold_after=1, started=event) for event in begun))
    server.script(Reply("the last, whose connection stays open"))
    with openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        streams = [stream(client) for _ in begun]
        assert all(event.wait(5) for event in begun)
        ask(client)
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < 0.5
        assert set(threading.enumerate()) == before
        for chunks in streams:
            with pytest.raises(openai.APIConnectionError):
                list(chunks)
        with pytest.raises(openai.APIConnectionError):
            ask(client)
    server.close()
    assert server.disconnects == 0


def test_closing_frees_a_server_whose_client_does_not_read(server: ChatServer, client: openai.OpenAI) -> None:
    server.script(Reply(chunks=[{"choices": [], "pad": "x" * 1_000_000}] * 50))
    chunks = stream(client)
    server.close()
    chunks.close()


# The package


def test_the_server_needs_only_the_standard_library() -> None:
    folder = Path(convstore.testing.__file__).parent
    names: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    ours = {name for name in names if name.startswith("convstore.testing")}
    assert ours
    assert {name.partition(".")[0] for name in names - ours} <= sys.stdlib_module_names


def test_answers_are_made_without_a_server() -> None:
    answer = answer_to({"model": "m"}, Reply("Hello"), 7)
    assert isinstance(answer, Answer)
    assert json.loads(answer.parts[0])["id"] == "chatcmpl-test-7"


def test_the_command_serves_until_interrupted_and_ends_quietly() -> None:
    command = [sys.executable, "-m", "convstore.testing", "--reply", "Always this"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
                assert ask(client).choices[0].message.content == "Always this"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_says_that_its_port_is_taken(server: ChatServer) -> None:
    port = str(address(server)[1])
    command = [sys.executable, "-m", "convstore.testing", "--port", port]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert f"cannot listen on port {port}" in result.stderr
    assert "Traceback" not in result.stderr
