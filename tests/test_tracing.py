"""Test the span of OpenTelemetry for each call of a model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from convstore import AsyncStore, Store, TurnFailed
from convstore.provider.call_tracing import CONTENT_VARIABLE
from convstore.testing import ChatServer, Failure, Reply
from tests.processes import PATIENCE, ROOT


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return what keeps the spans of a test. By the API, the provider of a process can be set once."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return kept


def take_one(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = [one for one in spans.get_finished_spans() if one.name != "mine"]
    return span


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_call_is_one_span_with_the_attributes_of_the_conventions(
    spans: InMemorySpanExporter, sqlite_url: str, chat_server: ChatServer
) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    chat_server.script(Failure(503), Reply("Tea.", usage=usage, model="m-2026", id="chatcmpl-7"))
    with Store(sqlite_url, base_url=chat_server.url) as store:
        id = store.new(system="Be brief.").id
        with trace.get_tracer("test").start_as_current_span("mine") as mine:
            store.say(id, "What shall I drink?", model="m", temperature=0.5, max_tokens=7, seed=1, stop=["x"])
    span = take_one(spans)
    assert (span.name, span.kind, span.status.status_code) == ("chat m", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.parent == mine.get_span_context()
    port = int(chat_server.url.rpartition(":")[2].partition("/")[0])
    assert attributes_of(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": id,
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.seed": 1,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.response.model": "m-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": port,
    }


def test_a_stream_has_the_time_to_its_first_piece_and_a_task_its_own_parent(
    spans: InMemorySpanExporter, sqlite_url: str, chat_server: ChatServer
) -> None:
    async def main() -> Any:
        async with AsyncStore(sqlite_url, base_url=chat_server.url, model="m") as store:
            id = (await store.new()).id
            with trace.get_tracer("test").start_as_current_span("mine") as mine:
                async with store.stream(id, "Hello", n=1, response_format={"type": "json_object"}) as reply:
                    assert [piece async for piece in reply]
            return mine.get_span_context()

    parent = asyncio.run(main())
    span = take_one(spans)
    assert span.parent == parent
    found = attributes_of(span)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.output.type"] == "json"
    assert "gen_ai.request.choice.count" not in found
    assert 0 < found["gen_ai.response.time_to_first_chunk"] < PATIENCE


def test_a_failure_is_named_by_its_type_without_its_text(
    spans: InMemorySpanExporter, sqlite_url: str, chat_server: ChatServer
) -> None:
    chat_server.script(Failure(400, "secret text of the message"))
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store, pytest.raises(TurnFailed):
        store.say(store.new().id, "secret text of the message")
    span = take_one(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "400"
    assert "secret" not in span.to_json()


def test_a_reply_that_its_reader_closes_is_no_error(
    spans: InMemorySpanExporter, sqlite_url: str, chat_server: ChatServer
) -> None:
    chat_server.script(Reply("one two three", pieces=["one ", "two ", "three"]))
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        id = store.new().id
        with store.stream(id, "Hello") as reply:
            next(iter(reply))
    span = take_one(spans)
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span)["error.type"] == "Stopped"


@pytest.mark.parametrize(
    ("value", "is_wanted"),
    [
        *((None, False), ("false", False), ("NO_CONTENT", False), ("EVENT_ONLY", False)),
        *(("true", True), ("SPAN_ONLY", True), ("span_and_event", True)),
    ],
)
def test_content_is_in_a_span_only_if_the_variable_asks_for_it(
    spans: InMemorySpanExporter,
    sqlite_url: str,
    chat_server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    is_wanted: bool,
) -> None:
    if value is not None:
        monkeypatch.setenv(CONTENT_VARIABLE, value)
    call = {"id": "c1", "type": "function", "function": {"name": "brew", "arguments": '{"cups": 2}'}}
    chat_server.script(
        Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason="tool_calls"),
        Reply("Ready"),
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        id = store.new(system="Be brief.").id
        store.say(id, {"role": "user", "content": [{"type": "text", "text": "secret tea"}, image]})
        store.say(id, {"role": "tool", "tool_call_id": "c1", "content": "two cups"})
    first, second = spans.get_finished_spans()
    if not is_wanted:
        assert "secret" not in first.to_json()
        assert "two cups" not in second.to_json()
        return
    call_part = {"type": "tool_call", "id": "c1", "name": "brew", "arguments": {"cups": 2}}
    assert json.loads(attributes_of(first)["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "secret tea"}, {"type": "image_url"}]},
    ]
    assert json.loads(attributes_of(first)["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [call_part], "finish_reason": "tool_calls"}
    ]
    assert json.loads(attributes_of(second)["gen_ai.input.messages"])[2:] == [
        {"role": "assistant", "parts": [call_part]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "two cups"}]},
    ]


def test_a_tracer_that_fails_fails_no_turn(
    spans: InMemorySpanExporter, sqlite_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    chat_server.script(Reply("one"), Reply("two"))
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        id = store.new().id
        with monkeypatch.context() as patch:
            patch.setattr(trace, "get_tracer", lambda _: Broken())
            assert store.say(id, "a").text == "one"
        with monkeypatch.context() as patch:
            patch.setattr("opentelemetry.sdk.trace.Span.end", Broken().__getattr__)
            assert store.say(id, "b").text == "two"
    assert spans.get_finished_spans() == ()


def test_nothing_of_it_is_imported_by_a_program_that_does_not_use_it(sqlite_url: str) -> None:
    program = """
import sys
from convstore import Store
from convstore.testing import ChatServer
with ChatServer() as server, Store(sys.argv[1], base_url=server.url, model="m") as store:
    store.say(store.new().id, "Hello")
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program, sqlite_url], check=True, timeout=PATIENCE, cwd=ROOT)
