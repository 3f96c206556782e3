"""Test how a conversation is read: history, messages with positions, turns."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest

from convstore import DamagedRow, InvalidInput, MessageRecord, Store, Turn, TurnFailed, TurnStatus
from convstore.db import message_rows, path_bytes
from convstore.messages.codec import encode
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, Backend
from tests.contract.invariants import engine_of
from tests.contract.test_append import MESSAGES, USAGE
from tests.contract.test_usage import record_statements

COMPARED_FIELDS = [field.name for field in fields(Turn) if field.name != "latency"]
"""Fields that are equal when a turn ends and when it is read again. Latency is not: it is stored in milliseconds."""


def test_history_returns_messages_in_request_form(store: Store) -> None:
    id = store.new(messages=MESSAGES).id
    request = store.history(id)
    assert len(request) == len(MESSAGES)
    assert request[:4] == MESSAGES[:4]
    assert request[4] == {"role": "assistant", "tool_calls": MESSAGES[4]["tool_calls"]}
    assert request[5] == MESSAGES[5]
    assert request[6]["refusal"] == "I cannot."
    assert None not in request[6].values()
    assert request[7] == {"role": "assistant", "audio": {"id": "a1"}}
    assert request[8] == {"role": "assistant", "content": "x", "vendor": {"b": 1, "a": [1.5]}}
    assert store.history(id, exact=True) == MESSAGES


def test_an_assistant_message_with_nothing_to_send_gets_an_empty_content(store: Store) -> None:
    id = store.new(messages=[{"role": "assistant", "content": None, "reasoning": "hm"}]).id
    assert store.history(id) == [{"role": "assistant", "content": ""}]


def test_a_lone_surrogate_is_stored_and_sent_as_a_replacement_character(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "a\ud800b"}]).id
    assert store.history(id, exact=True) == [{"role": "user", "content": "a\ud800b"}]
    assert store.history(id) == [{"role": "user", "content": "a\ufffdb"}]


def test_limit_returns_the_last_messages(store: Store) -> None:
    id = store.new().id
    store.append(id, *[{"role": "user", "content": str(number)} for number in range(1, 6)])
    for limit, expected in ((0, []), (1, ["5"]), (2, ["4", "5"]), (5, list("12345")), (99, list("12345"))):
        assert [message["content"] for message in store.history(id, limit=limit)] == expected
        assert [record.message["content"] for record in store.messages(id, limit=limit)] == expected
    assert [record.message["content"] for record in store.messages(id, limit=None)] == list("12345")
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.history(id, limit=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.messages(id, limit=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.turns(id, limit=wrong)  # type: ignore[arg-type]


def test_messages_returns_the_last_hundred_by_default(store: Store) -> None:
    id = store.new().id
    store.append(id, *[{"role": "user", "content": str(number)} for number in range(150)])
    assert [record.position for record in store.messages(id)] == list(range(51, 151))
    assert len(store.history(id)) == 150


@ON_ALL_BACKENDS
def test_the_pages_of_messages_add_up_to_the_complete_path(store: Store, chat_server: ChatServer) -> None:
    """Failed turns leave gaps between the seqs of the path."""
    id = store.new(system="s").id
    for number in range(4):
        chat_server.script(Failure(500), Failure(500), Reply(f"answer {number}"))
        for _ in range(2):
            with pytest.raises(TurnFailed):
                store.say(id, f"question {number}")
        store.say(id, f"question {number}")
    whole = store.messages(id, limit=None)
    assert [record.position for record in whole] == list(range(1, 10))
    seqs = [record.seq for record in whole]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] > 9
    assert [record.parent_seq for record in whole] == [0, *seqs[:-1]]
    assert {record.context_seq for record in whole[1:]} == {1}
    for size in (1, 2, 3, 4, 8, 9, 100):
        pages = store.messages(id, limit=size)
        while older := store.messages(id, before=pages[0].seq, limit=size):
            pages = older + pages
        assert pages == whole


def test_an_invalid_before_is_refused(store: Store) -> None:
    id = store.new(system="s").id
    for nowhere in (2, 10**12):
        with pytest.raises(InvalidInput, match=f"{id}' has no message with seq {nowhere}"):
            store.messages(id, before=nowhere)
    for wrong in (0, -1, 1.5, True, "1"):
        for read in (store.messages, store.turns):
            with pytest.raises(InvalidInput, match=f"`before` must be .*, not {wrong!r}"):
                read(id, before=wrong)  # type: ignore[arg-type]
    assert store.messages(id, before=1) == []


def test_all_messages_of_a_path_are_found_if_their_seqs_are_far_apart(store: Store, chat_server: ChatServer) -> None:
    """Failed turns leave 80 seqs between two messages, more than one scan reads."""
    id = store.new(system="s").id
    store.say(id, "first")
    chat_server.otherwise = lambda _: Failure(500)
    for _ in range(40):
        with pytest.raises(TurnFailed):
            store.say(id, [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    chat_server.otherwise = lambda _: Reply("at last")
    store.say(id, "second")
    whole = ["s", "first", "You said: first", "second", "at last"]
    assert [message["content"] for message in store.history(id)] == whole
    for limit in range(6):
        found = [message["content"] for message in store.history(id, limit=limit)]
        assert found == (whole[-limit:] if limit else [])
    assert store.messages(id, limit=5)[-1].position == 5


def test_turns_returns_the_turn_that_say_returned(store: Store, chat_server: ChatServer) -> None:
    id = store.new(temperature=0.5).id
    chat_server.script(Reply("hello", usage=USAGE, id="resp-1", model="served-model"))
    said = store.say(id, "hi", seed=7)
    (read,) = store.turns(id)
    for name in COMPARED_FIELDS:
        assert getattr(read, name) == getattr(said, name), name
    assert read.latency == pytest.approx(said.latency, abs=0.001)
    assert (said.status, said.finish_reason, said.text) == (TurnStatus.COMPLETED, "stop", "hello")
    assert (said.base_seq, said.first_input_seq, said.last_input_seq, said.output_seq) == (0, 1, 1, 2)
    assert (said.response_id, said.model, said.system_fingerprint) == ("resp-1", "served-model", "fp_test")
    assert said.request == {"model": "test-model", "temperature": 0.5, "seed": 7}
    assert said.usage == USAGE
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (20, 7, 27)
    assert (said.usage.cached_tokens, said.usage.reasoning_tokens) == (12, 5)
    assert said.latency is not None
    assert 0 <= said.latency < 30
    assert said.time_to_first_token is None
    assert said.ended_at is not None
    assert said.started_at <= said.ended_at
    assert [record.turn for record in store.messages(id)] == [1, 1]
    assert store.input_of(said) == store.messages(id, limit=2)[:1]


def test_a_streamed_turn_also_stores_the_time_to_its_first_piece(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("hello", usage=USAGE, id="resp-1", model="served-model", delay=0.01))
    with store.stream(id, "hi") as reply:
        assert "".join(reply) == "hello"
    (read,) = store.turns(id)
    assert (read.status, read.finish_reason, read.text) == (TurnStatus.COMPLETED, "stop", "hello")
    assert (read.response_id, read.model, read.system_fingerprint) == ("resp-1", "served-model", "fp_test")
    assert read.usage == USAGE
    assert read.time_to_first_token is not None
    assert read.latency is not None
    assert 0 <= read.time_to_first_token < read.latency


def test_a_turn_has_no_usage_or_fingerprint_if_the_provider_sends_none(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("hello", usage=None, system_fingerprint=None))
    store.say(id, "hi")
    (read,) = store.turns(id)
    assert (read.usage, read.system_fingerprint) == (None, None)


def test_turns_are_returned_in_order_and_in_pages(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("1"), Failure(500), Reply("3"), Reply("4"), Failure(500))
    for number in range(5):
        with suppress(TurnFailed):
            store.say(id, str(number))
    whole = store.turns(id)
    assert [turn.seq for turn in whole] == [1, 2, 3, 4, 5]
    assert [turn.status.value for turn in whole] == ["completed", "failed", "completed", "completed", "failed"]
    assert store.turns(id, limit=2) == whole[-2:]
    assert store.turns(id, before=4, limit=2) == whole[1:3]
    assert store.turns(id, before=1) == []
    assert store.turns(id, limit=0) == []
    assert store.turns(id, limit=None) == whole


def count_stored_bytes(message: dict[str, Any]) -> int:
    """Return the bytes of a message as it is stored, with attachments as base64."""
    stored = encode(message)
    texts = [text.encode() for text in (stored.content, stored.extra) if text is not None]
    return sum(map(len, texts)) + sum(len(base64.b64encode(blob)) for blob in stored.blobs.values())


def make_message_of_many_kinds(number: int) -> dict[str, Any]:
    """Return a message: a text of any size and script, one with other fields, or one with an attachment."""
    kind = number % 4
    if kind == 0:
        return {"role": "user", "content": "word " * (number * 7 % 50)}
    if kind == 1:
        return {"role": "assistant", "content": "空白" * (number % 9), "refusal": None, "vendor": ["x" * number]}
    if kind == 2:
        url = f"data:image/png;base64,{base64.b64encode(bytes([number]) * (4_000 + number)).decode()}"
        return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}] * (1 + number % 3)}
    return {"role": "assistant", "content": None, "refusal": "no"}


def test_max_bytes_returns_the_longest_end_that_has_so_many_bytes(store: Store) -> None:
    path = [make_message_of_many_kinds(number) for number in range(40)]
    id = store.new(messages=path[:30]).id
    for number in range(30, 40, 2):
        id = store.fork(id).id
        store.append(id, *path[number : number + 2])
    sizes = [count_stored_bytes(message) for message in path]
    for most in (0, 1, 50, *(sum(sizes[place:]) + extra for place in range(0, 40, 3) for extra in (-1, 0))):
        count = max(1, sum(sum(sizes[place:]) <= most for place in range(40)))
        assert store.history(id, max_bytes=most, exact=True) == path[-count:], most
        assert store.messages(id, max_bytes=most, limit=3) == store.messages(id, limit=min(3, count))
    assert store.history(id, max_bytes=10**9) == store.history(id)
    assert store.history(id, max_bytes=10**9, limit=0) == []
    assert store.history(store.new().id, max_bytes=1) == []


def test_pages_of_limited_bytes_add_up_to_the_complete_path(store: Store) -> None:
    id = store.new(messages=[make_message_of_many_kinds(number) for number in range(30)]).id
    found: list[MessageRecord] = []
    while page := store.messages(id, before=found[0].seq if found else None, max_bytes=6_000):
        found = [*page, *found]
    assert found == store.messages(id, limit=None)


def test_what_does_not_fit_is_not_read(store: Store, backend: Backend) -> None:
    large = {"role": "user", "content": "x" * 100_000}
    id = store.new(messages=[make_user("a"), large, make_user("b"), make_user("c")]).id
    backend.damage(
        "UPDATE convstore_messages SET content = 'y' || content WHERE conversation_id = :id AND seq = 2", id=id
    )
    last = store.messages(id, max_bytes=1_000)
    assert [record.seq for record in last] == [3, 4]
    with pytest.raises(DamagedRow):
        store.messages(id, before=3, max_bytes=1_000)  # at least one message, however large
    assert [record.seq for record in store.messages(id, before=2, max_bytes=1_000)] == [1]


def test_max_bytes_takes_as_many_statements_for_many_attachments_as_for_one(backend: Backend) -> None:
    store = backend.open()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
    counts = []
    for length in (2, 40):
        messages = [{"role": "user", "content": [{"type": "text", "text": str(n)}, image]} for n in range(length)]
        id = store.new(messages=messages).id
        with record_statements(engine_of(store)) as seen:
            assert len(store.history(id, max_bytes=10**9)) == length
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_max_bytes_measures_only_the_first_message_that_does_not_fit(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.open()
    id = store.new(messages=[{"role": "user", "content": f"{n} " * 500} for n in range(300)]).id
    measured: list[int] = []
    measure = message_rows.measure_attachments

    def note(connection: Any, lineage: Any, extras: list[str | None]) -> list[int]:
        measured.append(len(extras))
        return measure(connection, lineage, extras)

    monkeypatch.setattr(path_bytes, "measure_attachments", note)
    assert len(store.history(id, max_bytes=5_000)) == 2
    assert measured == [3]


def test_max_bytes_is_checked(store: Store) -> None:
    id = store.new().id
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.history(id, max_bytes=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.messages(id, max_bytes=wrong)  # type: ignore[arg-type]


def make_user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
