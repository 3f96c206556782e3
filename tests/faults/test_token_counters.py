"""Test a caller's token counter that fails: before the call it is an error, after it no reply is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from convstore import InvalidInput, Store, TurnStatus
from convstore.messages.message import Message
from convstore.messages.token_counters import make_checked_counter, make_fallback_counter
from convstore.messages.token_estimate import estimate_message
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened


class Counter:
    """Count ten tokens for every message, except for one role, where it does as it is told."""

    def __init__(self) -> None:
        self.of_role: str | None = None
        self.result: Any = 10

    def __call__(self, message: Message) -> int:
        if self.of_role is not None and message["role"] != self.of_role:
            return 10
        if isinstance(self.result, Exception):
            raise self.result
        count: int = self.result
        return count


WRONG = [RuntimeError("no tokenizer"), 1.5, None, -1, True, "12", float("nan"), 2**60]
NAMES = ["raises", "float", "none", "negative", "bool", "text", "nan", "huge"]


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture(params=["sync", "async"])
def store(
    request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer, counter: Counter
) -> Iterator[Store]:
    with opened(str(request.param), database_url, chat_server, count_tokens=counter) as store:
        yield store
        check_all(engine_of(store))


def streamed(store: Store, id: str, **options: Any) -> Any:
    with store.stream(id, "Hi", **options) as reply:
        list(reply)
    return reply.turn


def test_a_message_that_cannot_be_counted_is_refused_and_nothing_is_stored_or_sent(
    store: Store, counter: Counter, chat_server: ChatServer
) -> None:
    id = store.new(system="Be brief.").id
    store.say(id, "First")
    store.say(id, "Second")
    before = (store.tree(id), store.turns(id), store.get(id), len(chat_server.requests), len(store.list()))
    calls: dict[str, Callable[[], object]] = {
        "say": lambda: store.say(id, "Hi"),
        "say with a budget": lambda: store.say(id, "Hi", max_context=1000),
        "stream": lambda: streamed(store, id),
        "edit": lambda: store.edit(id, 2, "Otherwise"),
        "preview": lambda: store.preview(id, "Hi"),
        "append": lambda: store.append(id, "Hi"),
        "new": lambda: store.new(messages=[{"role": "user", "content": "Hi"}]),
        "compact": lambda: store.compact(id, keep_last=1),
    }
    for wrong in WRONG:
        counter.result = wrong
        for name, call in calls.items():
            with pytest.raises(InvalidInput, match="count_tokens"):
                call()
            now = (store.tree(id), store.turns(id), store.get(id), len(chat_server.requests), len(store.list()))
            assert now == before, f"{name}: {wrong!r}"
    counter.result = 10
    assert store.say(id, "Third", wait=0).text == "You said: Third"


@pytest.mark.parametrize("wrong", WRONG, ids=NAMES)
def test_a_reply_that_cannot_be_counted_is_estimated(
    store: Store, counter: Counter, chat_server: ChatServer, wrong: object
) -> None:
    id = store.new().id
    counter.of_role, counter.result = "assistant", wrong
    assert store.say(id, "Hi").text == "You said: Hi"
    assert streamed(store, id).text == "You said: Hi"
    assert store.retry(id).text == "You said: Hi"
    chat_server.script(Reply(pieces=["It", " goes"], hold_after=1))
    with store.stream(id, "Hi") as reply:
        assert next(reply) == "It"
    assert reply.turn.status is TurnStatus.INTERRUPTED
    counts = {record.message["role"]: record.tokens for record in store.tree(id)}
    assert counts["user"] == 10
    assert [record.tokens for record in store.tree(id) if record.message["role"] == "assistant"] == [
        estimate_message(record.message) for record in store.tree(id) if record.message["role"] == "assistant"
    ]


def test_a_summary_that_cannot_be_counted_is_estimated(store: Store, counter: Counter) -> None:
    id = store.new().id
    for number in range(3):
        store.say(id, f"Question {number}")
    counter.of_role, counter.result = "assistant", RuntimeError("no tokenizer")
    (summary,) = store.compact(id, keep_last=1)
    assert summary.tokens > 10
    assert store.summary(id) == summary


def test_a_counter_that_fails_in_an_automatic_compaction_does_not_lose_the_reply(
    store: Store, counter: Counter
) -> None:
    id = store.new(compact_at=1, keep_last=1).id
    store.say(id, "One")
    counter.of_role, counter.result = "system", RuntimeError("no tokenizer")  # the request for a summary
    assert store.say(id, "Two").text == "You said: Two"
    assert store.summary(id) is None
    counter.of_role = None
    counter.result = 10
    store.say(id, "Three")
    assert store.summary(id) is not None


def test_a_request_is_trimmed_by_stored_counts_if_the_counter_fails(
    store: Store, counter: Counter, chat_server: ChatServer
) -> None:
    id = store.new().id
    for number in range(3):
        store.say(id, f"Question {number}")
    counted: list[object] = []

    def count(message: Message) -> int:
        counted.append(message["content"])
        if len(counted) > 1:  # once for window and row; then for the reply
            raise RuntimeError("no tokenizer")
        return 10

    too_long = "This model's maximum context length is 50 tokens."
    chat_server.script(Failure(400, too_long, code="context_length_exceeded"))
    transactions = store._engine.transactions
    transactions.services = replace(transactions.services, count_tokens=make_checked_counter(count))
    asked = len(chat_server.requests)
    turn = store.say(id, "Long", on_overflow="trim")
    transactions.services = replace(transactions.services, count_tokens=make_checked_counter(counter))
    assert len(chat_server.requests) == asked + 2
    assert (turn.status, len(turn.attempts)) == (TurnStatus.COMPLETED, 1)
    assert counted == ["Long", turn.text]


def test_a_count_of_zero_becomes_one() -> None:
    message: Message = {"role": "user", "content": ""}
    assert make_checked_counter(lambda _: 0)(message) == 1
    assert make_checked_counter(lambda _: 12)(message) == 12
    assert make_checked_counter(estimate_message) is estimate_message
    assert make_fallback_counter(make_checked_counter(lambda _: 7))(message) == 7


def test_the_error_names_the_counters_error_and_has_it_as_its_cause() -> None:
    def count(message: Message) -> int:
        raise LookupError("no such model")

    with pytest.raises(InvalidInput, match=r"LookupError: no such model .*role 'user'") as caught:
        make_checked_counter(count)({"role": "user", "content": "Hi"})
    assert isinstance(caught.value.__cause__, LookupError)
